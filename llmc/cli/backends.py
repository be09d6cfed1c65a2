"""llmc backends: which backends there are, and which of them can run here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmc.cli.common import JsonOption, console, print_json

if TYPE_CHECKING:
    from llmc.plugins.registry import Entry


def backends(as_json: JsonOption = False) -> None:
    """List the backends: what they run on, what they make code for, the weight formats they lower, and whether they can."""
    from rich import box
    from rich.table import Table

    from llmc.plugins.registry import default

    data = [_describe(entry) for entry in default().entries("backends")]
    if as_json:
        print_json({"backends": data})
        return
    headings = ("backend", "of", "version", "what it is", "runs on", "targets", "formats", "available")
    table = Table(*headings, box=box.SIMPLE, pad_edge=False)
    for row in data:
        available = "yes" if row["available"] else f"no: {row['reason']}"
        lists = ("\n".join(row["targets"]), ", ".join(row["formats"]))
        table.add_row(row["name"], row["distribution"], row["version"], row["summary"], row["runs_on"], *lists, available)
    console().print(table)


def _describe(entry: Entry) -> dict[str, Any]:
    described = {"name": entry.name, "distribution": entry.distribution, "version": entry.version, "summary": entry.doc}
    nothing = {"runs_on": "", "targets": [], "formats": [], "available": False}
    try:
        backend = entry.make()
        found = backend.availability()
        if not found.available:
            return {**described, **nothing, "formats": list(backend.formats), "reason": found.reason}
        facts = {"runs_on": backend.version(), "targets": list(backend.targets()), "formats": list(backend.formats)}
        return {**described, **facts, "available": True, "reason": ""}
    except Exception as error:  # a listing is where one looks to find out what is wrong
        return {**described, **nothing, "reason": str(error) or type(error).__name__}
