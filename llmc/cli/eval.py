"""llmc eval: how good a model is on a text, and how far from the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmc.cli.common import JsonOption, console, print_json, quiet_libraries, read_text
from llmc.cli.model_options import NamedModel, opens_model
from llmc.cli.progress import Tell, progress
from llmc.errors import InputError

if TYPE_CHECKING:
    from llmc.evaluate.divergence import Divergence
    from llmc.evaluate.perplexity import Perplexity, Progress
    from llmc.runtime.model import CompiledModel

DEFAULT_WINDOW = 512


@opens_model(threads=True)
def evaluate(
    model: NamedModel,
    text: Annotated[str, typer.Option(metavar="FILE", help="A file of text, in UTF-8, that the model has not seen.")],
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window.", show_default=f"{DEFAULT_WINDOW}, or what the context has")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use so many tokens of the text.", show_default="all")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="ORIGINAL", help="A folder or hub id to compare with, run by torch in float64.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the perplexity and the bits a byte of a text, and how far a model is from its original."""
    from llmc.evaluate import report

    content = read_text(text)
    opened = model.open()
    if opened.tokenizer is None:
        raise InputError(f"{model}: this model has no tokenizer (tokenizer.json), so it cannot read a text")
    ids = opened.tokenizer.encode(content)[:limit]
    window = min(DEFAULT_WINDOW, opened.info.max_context) if window is None else window
    result = _result(opened, ids, window, against)
    if as_json:
        print_json({"model": model.name, "text": text, "window": window, **report.to_json(result)})
    else:
        console().print(f"{model} on {text}, windows of {window} tokens")
        console().print(report.table(result))


def _result(model: CompiledModel, ids: list[int], window: int, against: str | None) -> Perplexity | Divergence:
    from llmc.evaluate.perplexity import perplexity

    if against is None:
        with progress("scoring the text") as show:
            return perplexity(model, ids, window, _counter(show))
    with progress(f"reading {against}") as show:
        from llmc.capture.source import open_source
        from llmc.evaluate.divergence import divergence

        quiet_libraries()
        original = open_source(against).module
        return divergence(model, original, ids, window, progress=_counter(show))


def _counter(show: Tell) -> Progress:
    return lambda done, total: show("window", done, total)
