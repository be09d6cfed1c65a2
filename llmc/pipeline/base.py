"""What a pass is, what it is given, and what is recorded of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from llmc.errors import PipelineError
from llmc.ir.program import Program
from llmc.ir.types import Origin


@dataclass
class PassContext:
    """What a pass reports to while it runs. `name` goes into the origins of the nodes it makes."""

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
    """One rewrite of a program. Subclasses give `name` and `run`; options go into a nested pydantic `Config`.

    `before` and `after` name passes (or capabilities that passes provide) that this one must precede or follow where they are
    in the pipeline; `requires` names what must have run. A pass that was asked for by name and matches nothing is an error.
    """

    name: ClassVar[str]
    requires: ClassVar[Set[str]] = frozenset()
    provides: ClassVar[Set[str]] = frozenset()
    before: ClassVar[Set[str]] = frozenset()
    after: ClassVar[Set[str]] = frozenset()

    class Config(BaseModel):
        """Options of the pass; unknown ones are refused."""

        model_config = ConfigDict(extra="forbid")

    def __init__(self, **options: Any) -> None:
        try:
            self.config: Any = self.Config(**options)
        except ValidationError as error:
            known = ", ".join(self.Config.model_fields) or "none"
            problems = "; ".join(
                f"option '{'.'.join(map(str, item['loc']))}': {item['msg'].lower()}" for item in error.errors()
            )
            raise PipelineError(f"pass '{self.name}': {problems} (options: {known})") from error

    @abstractmethod
    def run(self, program: Program, ctx: PassContext) -> Program:
        """The rewritten program; the program itself if there was nothing to do."""

    @property
    def capabilities(self) -> set[str]:
        """What others may require: the pass's own name and what it provides."""
        return {self.name, *self.provides}

    def __str__(self) -> str:
        options = ", ".join(f"{key}={value}" for key, value in self.config.model_dump(exclude_defaults=True).items())
        return f"{self.name}({options})" if options else self.name


@dataclass
class PassRecord:
    """What one pass did. `error` is the relative change of the outputs on random ids, where it was measured."""

    key: str
    seconds: float
    matched: int
    refused: list[tuple[str, str]]
    notes: list[str]
    nodes_before: int
    nodes_after: int
    weight_bytes_before: int
    weight_bytes_after: int
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> PassRecord:
        """The record of `to_json`."""
        return PassRecord(**{**data, "refused": [(where, why) for where, why in data["refused"]]})
