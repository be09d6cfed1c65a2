"""What a pass is, what it is given, and what is recorded of it."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llmc.errors import PipelineError
from llmc.ir.types import Origin

if TYPE_CHECKING:
    from llmc.ir.program import Program


@dataclass
class PassContext:
    """What a pass is given, and reports to, while it runs (a `llmc.ir.rewrite.Report`).

    name: of the pass; goes into the origins of the nodes it makes.
    """

    name: str
    matches: list[Origin] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def matched(self, origin: Origin) -> None:
        """The pass changed code of this origin."""
        self.matches.append(origin)

    def refused(self, origin: Origin, reason: str) -> None:
        """The pass found code of its kind, but left it alone."""
        self.refusals.append((str(origin), reason))

    def note(self, text: str) -> None:
        """Anything else worth telling in the explanation."""
        self.notes.append(text)


class Pass(ABC):
    """One rewrite of a program. A subclass gives `name` and `run`; options go into a nested pydantic `Config`.

    requires: passes, or capabilities that passes provide, that must have run. provides: capabilities of this pass besides its
    name. before, after: what this pass must precede or follow, where that is in the pipeline. A pass that the user asked for by
    name and that matches nothing is an error.

    A pass that declares nothing runs where it was asked for: those of `llmc.compile(passes=...)` after the whole recipe, after
    `quantize` too, when weights are no longer floats. One that changes weights should have `before = {"quantize"}`.
    """

    name: ClassVar[str]
    requires: ClassVar[Set[str]] = frozenset()
    provides: ClassVar[Set[str]] = frozenset()
    before: ClassVar[Set[str]] = frozenset()
    after: ClassVar[Set[str]] = frozenset()

    class Config(BaseModel):
        """Options of the pass; unknown ones are refused."""

        model_config = ConfigDict(extra="forbid")

    config: Any = None
    """An instance of Config; None for a subclass whose own `__init__` takes its options and does not call this one's."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        name = getattr(cls, "name", None)
        if cls.run is not Pass.run and not (isinstance(name, str) and name):  # a base class need not have one
            raise TypeError(f"{cls.__name__} needs a `name`, by which pipelines and reports call it")
        for relation in ("requires", "provides", "before", "after"):
            declared = getattr(cls, relation)
            if isinstance(declared, str) or not all(isinstance(other, str) for other in declared):
                raise TypeError(f"{cls.__name__}.{relation} must be a set of names, such as {{'quantize'}}, not {declared!r}")
        if cls.Config.model_config.get("extra") != "forbid":  # a misspelt option would be ignored without a word
            raise TypeError(f"{cls.__name__}.Config must forbid unknown options: derive it from Pass.Config")

    def __init__(self, **options: Any) -> None:
        try:
            self.config = self.Config(**options)
        except ValidationError as error:
            known = ", ".join(self.Config.model_fields) or "none"
            names = list(self.Config.model_fields)
            problems = "; ".join(_problem(item["loc"], item["type"], item["msg"], names) for item in error.errors())
            raise PipelineError(f"pass '{self.name}': {problems} (options: {known})") from error

    @abstractmethod
    def run(self, program: Program, ctx: PassContext) -> Program:
        """The rewritten program; the program itself if there was nothing to do."""

    @property
    def capabilities(self) -> set[str]:
        """What others may require: the pass's own name and what it provides."""
        return {self.name, *self.provides}

    @property
    def options(self) -> str:
        """Its options that are not the default, as text."""
        if self.config is None:
            return ""
        return ", ".join(f"{key}={value}" for key, value in self.config.model_dump(exclude_defaults=True).items())

    def __str__(self) -> str:
        return f"{self.name}({self.options})" if self.options else self.name


def _problem(where: tuple[int | str, ...], kind: str, message: str, known: list[str]) -> str:
    option = ".".join(map(str, where))
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(option, known, n=1)
        return f"there is no option '{option}'" + (f", did you mean '{near[0]}'?" if near else "")
    message = message.removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"option '{option}': {message}" if option else message
