"""llmc backends: which backends there are, and which of them can run here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmc.cli.common import JsonOption, console, print_json
from llmc.errors import PluginError

if TYPE_CHECKING:
    from llmc.plugins.registry import Entry


def backends(as_json: JsonOption = False) -> None:
    """List the backends: whether they can run here, and the weight formats they lower."""
    from rich import box
    from rich.table import Table

    from llmc.plugins.registry import default

    data = [_describe(entry) for entry in default().entries("backends")]
    if as_json:
        print_json({"backends": data})
        return
    table = Table("backend", "of", "version", "what it is", "formats", "available", box=box.SIMPLE, pad_edge=False)
    for row in data:
        available = "yes" if row["available"] else f"no: {row['reason']}"
        table.add_row(row["name"], row["distribution"], row["version"], row["summary"], ", ".join(row["formats"]), available)
    console().print(table)


def _describe(entry: Entry) -> dict[str, Any]:
    described = {"name": entry.name, "distribution": entry.distribution, "version": entry.version, "summary": entry.doc}
    try:
        backend = entry.load()()
    except PluginError as error:
        return {**described, "formats": [], "available": False, "reason": str(error)}
    found = backend.availability()
    return {**described, "formats": list(backend.formats), "available": found.available, "reason": found.reason}
