"""The options of all commands that open a model, written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmc.cli.common import (
    BackendOption,
    ModelArgument,
    PassOption,
    RecipeOption,
    TargetOption,
    ThreadsOption,
    open_model,
)

if TYPE_CHECKING:
    from llmc.runtime.model import CompiledModel

OPTIONS = {
    "recipe": RecipeOption, "passes": PassOption, "backend": BackendOption, "target": TargetOption, "threads": ThreadsOption,
}  # fmt: skip


@dataclass(frozen=True)
class NamedModel:
    """A model as a user gave it: a name, and by which options it is compiled or loaded."""

    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    def open(self) -> CompiledModel:
        """Load or compile it, telling how far it is. Raises LLMCError."""
        return open_model(self.name, **self.options)


def opens_model(*, threads: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that `NamedModel.open` takes, `--threads` among them if anything is to run.

    The command declares its first parameter as `model: NamedModel` and its last as `as_json`; the options come before that one.
    """
    options = {name: option for name, option in OPTIONS.items() if threads or name != "threads"}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(model: str, **given: Any) -> None:
            chosen = {name: given.pop(name) for name in options}
            command(NamedModel(model, chosen), **given)

        own = inspect.signature(command, eval_str=True)
        model, *others, as_json = own.parameters.values()
        added = [inspect.Parameter(name, model.kind, default=None, annotation=option) for name, option in options.items()]
        parameters = [model.replace(annotation=ModelArgument), *others, *added, as_json]
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # what typer reads, with the hints
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate
