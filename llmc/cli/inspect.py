"""llmc inspect: look into a model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli.common import JsonOption, console, print_json
from llmc.cli.model_options import NamedModel, opens_model

if TYPE_CHECKING:
    from llmc.runtime.model import CompiledModel


@opens_model(threads=False)
def inspect(
    model: NamedModel,
    graph: Annotated[bool, typer.Option("--graph", help="The program.")] = False,
    axes: Annotated[bool, typer.Option("--axes", help="Every value's axes: the proof that positions are kept apart.")] = False,
    after: Annotated[
        str | None, typer.Option(metavar="PASS", help="Show graph or axes as they were after this pass, or after 'capture'.")
    ] = None,
    source: Annotated[bool, typer.Option("--source", help="The main file of the generated code.")] = False,
    file: Annotated[str | None, typer.Option(metavar="NAME", help="Another file of the generated code.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="What every pass did, and what a token costs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a summary of a model, or its program, axes, generated code or explanation."""
    from llmc.ir.axes_report import axes as axes_of
    from llmc.ir.axes_report import axes_report

    opened = model.open()
    graph = graph or (after is not None and not axes)
    views: dict[str, tuple[Any, str]] = {}  # of each: as data, as text
    if graph:
        text = str(opened.graph(after))
        views["graph"] = text, text
    if axes:
        program = opened.graph(after)
        views["axes"] = axes_of(program), axes_report(program)
    if source or file:
        code = opened.source(file)
        views["source"] = code, code
    if explain:
        views["passes"] = [record.to_json() for record in opened.records], opened.explain()
    if as_json:
        print_json({name: data for name, (data, _) in views.items()} if views else summary(opened))
    elif views:
        print("\n\n".join(text.rstrip("\n") for _, text in views.values()))
    else:
        _print_summary(summary(opened))


def summary(model: CompiledModel) -> dict[str, Any]:
    """What a model is, in numbers. `parameters` counts each stored weight once; buffers are among them. The bytes of the cache
    are those that the backend keeps, whatever the program rounds."""
    from llmc.runtime.contract import BLOCK

    program, info = model.program, model.info
    counts = [math.prod(weight.shape) for weight in program.weights.values()]
    return {
        "name": info.name,
        "source": info.source,
        "backend": info.backend,
        "recipe": info.recipe,
        "passes": [record.key for record in model.records],
        "max_context": info.max_context,
        "vocab_size": info.vocab_size,
        "parameters": sum(counts),
        "weights_mb": program.weight_bytes() / 1e6,
        "cache_bytes_per_token": model.executable.block_bytes // BLOCK,
        "nodes": len(program.nodes),
        "blocks": len(program.blocks.layers) if program.blocks else 0,
        "attentions": len(program.attentions),
        "outputs": list(program.outputs),
        "sources": list(model.executable.sources()),
        "versions": info.versions,
    }


def _print_summary(data: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in data.items():
        table.add_row(key.replace("_", " "), _cell(value))
    console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:.2f}" if isinstance(value, float) else str(value)
