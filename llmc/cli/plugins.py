"""llmc plugins: what is installed, and what is wrong with it."""

from __future__ import annotations

from llmc.cli.common import JsonOption, console, print_json


def plugins(as_json: JsonOption = False) -> None:
    """List the plugins, and why one is not in use."""
    from dataclasses import asdict

    from rich import box
    from rich.table import Table

    from llmc.plugins.registry import default

    found = default().plugins
    if as_json:
        print_json({"plugins": [asdict(plugin) for plugin in found]})
        return
    table = Table("plugin", "of", "version", "module", "in use", box=box.SIMPLE, pad_edge=False)
    for plugin in found:
        in_use = f"no: {plugin.problem}" if plugin.problem else "yes"
        table.add_row(plugin.name, plugin.distribution, plugin.version, plugin.module, in_use)
    console().print(table)
