"""llmc encode: texts to the values that an encoder gives of them, embeddings for example."""

from __future__ import annotations

from typing import Annotated

import typer

from llmc.cli.common import JsonOption, print_json, read_stdin
from llmc.cli.model_options import NamedModel, opens_model


@opens_model(threads=True)
def encode(
    model: NamedModel,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts; '-' reads one a line from stdin.")],
    pair: Annotated[list[str] | None, typer.Option(help="A second text for each, in the same order. Repeatable.")] = None,
    output: Annotated[str | None, typer.Option(help="Which output.", show_default="the first of whole sequences")] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long for the context.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print what an encoder makes of each text, numbers in a line."""
    given = read_stdin().splitlines() if texts == ["-"] else texts
    opened = model.open()
    found = opened.encode(given, pairs=pair or None, output=output, truncate=truncate)
    rows = [values.ravel().tolist() for values in found]
    if as_json:
        print_json({"model": model.name, "texts": given, "values": rows})
        return
    for row in rows:
        print(" ".join(f"{value:.6g}" for value in row))
