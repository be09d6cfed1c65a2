"""llmc rebuild: make the library of a compiled model again."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from llmc.cli.common import JsonOption, TargetOption, print_json
from llmc.cli.progress import progress


def rebuild(
    model: Annotated[str, typer.Argument(metavar="FOLDER", help="A compiled model's folder.")],
    target: TargetOption = None,
    force: Annotated[bool, typer.Option("--force", help="Make new sources of the program, over any edits.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compile a model's own sources, as they were edited; for another processor or version, make new ones of its program."""
    from llmc.runtime.rebuild import rebuild as make

    with progress(f"rebuilding {model}"):
        done = make(model, target=target, force=force)
    if as_json:
        print_json({**asdict(done), "folder": str(done.folder)})
        return
    what = "new sources were made of the program" if done.lowered else "the sources that are there were compiled"
    print(f"{model}: {what}, for {done.target}")
    for name in done.edited:
        print(f"  {name}: edited{', and overwritten' if done.lowered else ''}")
