"""What the commands share: options, opening a model, printing. Importing it is light; models load torch when opened."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmc.cli.progress import progress
from llmc.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from llmc.runtime.chat import Turn
    from llmc.runtime.generation import GenerationResult
    from llmc.runtime.model import CompiledModel

WIDTH = 160
"""Columns of tables that go to a file or pipe."""

DEFAULT_BACKEND = "cpu"

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", help="A recipe's name or YAML file; 'llmc recipes' lists them.", show_default="fuse")
]
PassOption = Annotated[
    list[str] | None, typer.Option("--pass", metavar="NAME[:k=v,...]", help="A further pass, with options. Repeatable.")
]
BackendOption = Annotated[
    str | None, typer.Option("--backend", help="A backend; 'llmc backends' lists them.", show_default=f"{DEFAULT_BACKEND}")
]
TargetOption = Annotated[
    str | None, typer.Option("--target", help="An instruction set of 'llmc backends'.", show_default="the best that runs here")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads to run on.", show_default="all cores")]
TemperatureOption = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopKOption = Annotated[int, typer.Option(help="Choose among so many tokens; 0 for all.")]
TopPOption = Annotated[float, typer.Option(help="Choose among the tokens that have this share of the probability.")]
SeedOption = Annotated[int, typer.Option(help="Of the random choices.")]
PromptLookupOption = Annotated[
    int,
    typer.Option("--prompt-lookup", min=0, help="Guess at most so many tokens at a time from what a text repeats; same text."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A compiled model's folder, or what 'llmc compile' takes, compiled on the fly.")
]
SourceArgument = Annotated[str, typer.Argument(metavar="MODEL", help="A folder or hub id of the transformers library.")]


def parse_pass(text: str) -> dict[str, Any]:
    """`NAME` or `NAME:key=value,...` as a pass given by name; a value that is JSON is read as such, any other is a string.

    Raises InputError if the text is of another form.
    """
    name, colon, rest = text.partition(":")
    spec: dict[str, Any] = {"name": name.strip()}
    # A comma ends a value only where another `key=` follows, so that `skip=["a", "b"]` needs no escapes.
    parts = re.split(r",(?=\s*\w+\s*=)", rest) if colon else []
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key.isidentifier() or key in spec:
            raise InputError(f"--pass {text}: '{part}' is not an option; the form is NAME:key=value,key=value")
        spec[key] = _parse_value(value)
    if not spec["name"]:
        raise InputError(f"--pass {text}: the name is missing; the form is NAME or NAME:key=value,key=value")
    return spec


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def is_compiled(model: str) -> bool:
    """Whether the user named a saved model, whole or damaged, rather than one to compile."""
    from llmc.runtime.manifest import MANIFEST_FILE

    return (Path(model) / MANIFEST_FILE).is_file()


def open_model(
    model: str,
    recipe: str | None = None,
    passes: Sequence[str] | None = None,
    backend: str | None = None,
    threads: int | None = None,
    target: str | None = None,
) -> CompiledModel:
    """Load a saved model, or compile one. Raises LLMCError; a saved model takes no recipe or passes any more."""
    import llmc

    if is_compiled(model):
        if recipe or passes or target:
            raise InputError(f"{model}: this is compiled already; --recipe, --pass and --target are for 'llmc compile'")
        with progress(f"loading {model}"):
            return llmc.load(model, backend=backend, threads=threads)
    return compile_model(model, recipe=recipe, passes=passes, backend=backend, threads=threads, target=target)


def compile_model(
    model: str,
    *,
    recipe: str | None = None,
    passes: Sequence[str] | None = None,
    backend: str | None = None,
    **options: Any,
) -> CompiledModel:
    """`llmc.compile` with its passes as the command line gives them, telling how far it is. Raises LLMCError."""
    specs = [parse_pass(text) for text in passes or ()]
    with progress(f"reading {model}"):
        import llmc

        quiet_libraries()
        return llmc.compile(model, recipe=recipe, passes=specs, backend=backend or DEFAULT_BACKEND, **options)


def quiet_libraries() -> None:
    """No progress bars, hints and retries of the hub between our own lines; what fails in the end is told by the error."""
    import huggingface_hub.utils
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()
    huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()


def console() -> Console:
    """For results on stdout; tables keep their width when that is no terminal."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def print_json(data: Any) -> None:
    """Indented JSON on stdout; numbers that JSON does not have become null."""
    print(json.dumps(_finite(data), indent=1))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def read_text(path: str) -> str:
    """The text of a UTF-8 file. Raises InputError if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text: {error}"
        raise InputError(f"{path}: cannot read this file: {reason}") from error


def read_stdin() -> str:
    """All of standard input. Raises InputError if it is not UTF-8."""
    return decode(sys.stdin.buffer.read())


def drafts(result: GenerationResult | Turn) -> str:
    """What became of guessed tokens, to follow a sentence on a generation; nothing if there were none."""
    return f", {result.accepted_tokens} of {result.drafted_tokens} guesses right" if result.drafted_tokens else ""


def decode(data: bytes) -> str:
    """What a user gave on standard input, as text, whatever the locale. Raises InputError if it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 text: {error}") from error
