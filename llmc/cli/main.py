"""The command `llmc`. Every command imports what it needs when it runs, so that help comes at once."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llmc import __version__
from llmc.cli import (
    backends,
    bench,
    bisect,
    chat,
    compile,
    encode,
    eval,
    generate,
    inspect,
    passes,
    plugins,
    rebuild,
    recipes,
    tune,
    verify,
)
from llmc.cli.progress import tell
from llmc.errors import LLMCError

USAGE_ERROR, INTERRUPTED = 2, 130

UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What the parser of arguments raises; its home differs between versions of the library."""


class Commands(TyperGroup):
    """The commands, in the order of their use; errors that a user can provoke are told in a line."""

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Help if nothing is asked for; exit code 2 for options that there are not."""
        with _told("--debug" in args):
            return super().make_context(info_name, args or ["--help"], *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command: exit code 2 for an LLMCError, with a traceback only for --debug."""
        debug = ctx.params["debug"]
        with warnings.catch_warnings(), _told(debug):
            if not debug:
                warnings.showwarning = _show_warning
                warnings.simplefilter("ignore", FutureWarning)  # of libraries about each other, nothing a user can change
            return super().invoke(ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """As added below, not by the alphabet."""
        return list(self.commands)


@contextmanager
def _told(debug: bool) -> Iterator[None]:
    """Errors that a user can provoke, in a line that says what to do."""
    try:
        yield
    except (LLMCError, UsageError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        tell(f"llmc: error: {_message(error)}")
        raise typer.Exit(USAGE_ERROR) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(INTERRUPTED) from error


def _message(error: Any) -> str:
    if isinstance(error, LLMCError):
        return str(error)
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    place = f"; see '{error.ctx.command_path} --help'" if error.ctx else ""
    return f"{' '.join(error.format_message().split()).rstrip('.')}{place}"


def _show_warning(message: Warning | str, *place: Any, **more: Any) -> None:
    tell(f"llmc: warning: {message}")


app = typer.Typer(
    name="llmc",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"llmc {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks, and all warnings of the libraries.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Compile language models: PyTorch in, transformed graphs through, readable generated code out."""


app.command("compile")(compile.compile)
app.command("generate")(generate.generate)
app.command("encode")(encode.encode)
app.command("chat")(chat.chat)
app.command("inspect")(inspect.inspect)
app.command("eval")(eval.evaluate)
app.command("bench")(bench.bench)
app.command("bisect")(bisect.bisect)
app.command("verify")(verify.verify)
app.command("rebuild")(rebuild.rebuild)
app.command("tune")(tune.tune)
app.command("passes")(passes.passes)
app.command("recipes")(recipes.recipes)
app.command("backends")(backends.backends)
app.command("plugins")(plugins.plugins)


def main() -> None:
    """Entry point. Exit codes: 0, 1 where `bisect` or `verify` finds what is to blame, 2 errors, 130 interrupted."""
    app()


if __name__ == "__main__":
    main()
