"""llmc bisect: find the pass that changes the outputs."""

from __future__ import annotations

from typing import Annotated

import typer

from llmc.cli.common import (
    JsonOption,
    PassOption,
    RecipeOption,
    SourceArgument,
    parse_pass,
    print_json,
    quiet_libraries,
)
from llmc.cli.progress import progress


def bisect(
    model: SourceArgument,
    recipe: RecipeOption = None,
    passes: PassOption = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Relative error of the outputs that is accepted.")] = 1e-3,
    as_json: JsonOption = False,
) -> None:
    """Find the first pass after which the outputs differ by more than a tolerance; the exit code is 1 if there is one."""
    from dataclasses import asdict

    specs = [parse_pass(text) for text in passes or ()]
    with progress(f"reading {model}") as show:
        from llmc.capture.capture import capture
        from llmc.capture.checkpoint import map_weights
        from llmc.capture.source import open_source
        from llmc.pipeline.bisect import bisect as search
        from llmc.pipeline.recipe import resolve
        from llmc.plugins.registry import default

        quiet_libraries()
        registry = default()
        pipeline = resolve(recipe, specs, registry)
        source = open_source(model)
        program = capture(source.module).program
        if source.folder is not None:
            program = map_weights(program, source.module, source.folder)
        show(f"searching {len(pipeline)} passes")
        found = search(program, pipeline, registry, tolerance)
    if as_json:
        print_json(asdict(found))
    else:
        print(found.message)
    if found.guilty is not None:
        raise typer.Exit(1)
