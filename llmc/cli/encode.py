"""llmc encode: texts to the values that an encoder gives of them, embeddings for example."""

from __future__ import annotations

from typing import Annotated

import typer

from llmc.cli.common import (
    BackendOption,
    JsonOption,
    ModelArgument,
    PassOption,
    RecipeOption,
    TargetOption,
    ThreadsOption,
    open_model,
    print_json,
    read_stdin,
)


def encode(
    model: ModelArgument,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts; '-' reads one a line from stdin.")],
    pair: Annotated[list[str] | None, typer.Option(help="A second text for each, in the same order. Repeatable.")] = None,
    output: Annotated[str | None, typer.Option(help="Which output.", show_default="the first of whole sequences")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long for the context.")] = False,
    recipe: RecipeOption = None,
    passes: PassOption = None,
    backend: BackendOption = None,
    target: TargetOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print what an encoder makes of each text, numbers in a line."""
    given = read_stdin().splitlines() if texts == ["-"] else texts
    opened = open_model(model, recipe=recipe, passes=passes, backend=backend, target=target, threads=threads)
    found = opened.encode(given, pairs=pair or None, output=output, truncate=truncate)
    rows = found.reshape(len(found), -1).tolist()
    if as_json:
        print_json({"model": model, "texts": given, "values": rows})
        return
    for row in rows:
        print(" ".join(f"{value:.6g}" for value in row))
