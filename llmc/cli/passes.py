"""llmc passes: which passes there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmc.cli.common import JsonOption, console, print_json
from llmc.errors import PluginError

if TYPE_CHECKING:
    from llmc.plugins.registry import Entry


def passes(as_json: JsonOption = False) -> None:
    """List the passes, with their options."""
    from rich import box
    from rich.table import Table

    from llmc.plugins.registry import default

    data = [_describe(entry) for entry in default().entries("passes")]
    if as_json:
        print_json({"passes": data})
        return
    table = Table("pass", "of", "version", "what it does", "options", box=box.SIMPLE, pad_edge=False)
    for row in data:
        shown = "\n".join(f"{one['name']}={one['default']}: {one['description']}" for one in row["options"])
        table.add_row(row["name"], row["distribution"], row["version"], row["summary"], shown)
    console().print(table)


def _describe(entry: Entry) -> dict[str, Any]:
    described = {"name": entry.name, "distribution": entry.distribution, "version": entry.version, "summary": entry.doc}
    return {**described, "options": _options(entry)}


def _options(entry: Entry) -> list[dict[str, Any]]:
    """Of a pass that can be imported; why another cannot is its summary."""
    try:
        fields = entry.load().Config.model_fields
    except (PluginError, AttributeError):
        return []
    return [
        {
            "name": name,
            "default": "required" if field.is_required() else str(field.get_default(call_default_factory=True)),
            "description": field.description or "",
        }
        for name, field in fields.items()
    ]
