"""What is known about a compiled model besides its program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from llmc.errors import ArtifactError, InputError
from llmc.runtime.contract import POSITION, InputSpec, check_sizes

MOST_POSITIONS = 2**31 - 1
"""Positions are int32 in the step contract."""


@dataclass(frozen=True)
class ModelInfo:
    """Facts that generation, encoding and the manifest need.

    name: for reports. vocab_size, max_context: ids are below the one, a sequence has at most the other many positions.
    architecture: the class of the original in the `transformers` library, or "". eos_ids, bos_id: of the model's config.
    recipe, backend, target: what it was compiled with, target "" for the best of the machine. threads: None for all cores.
    source: the path or hub id it came from, "" for a module. versions: of every distribution that took part.
    notes: what capture decided. padding: an id that no sequence may hold.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    name: str
    vocab_size: int
    max_context: int
    architecture: str = ""
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    recipe: str = ""
    backend: str = ""
    threads: int | None = None
    source: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    target: str = ""
    notes: tuple[str, ...] = ()
    padding: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "eos_ids": list(self.eos_ids), "notes": list(self.notes)}

    @staticmethod
    def from_json(data: Any) -> ModelInfo:
        """The info of `to_json`. Raises ArtifactError naming the fields that are missing, unknown or of another type."""
        from pydantic import TypeAdapter, ValidationError

        try:
            info = TypeAdapter(ModelInfo).validate_json(json.dumps(data))  # strict JSON: an array may become a tuple
        except ValidationError as error:
            found = [(".".join(map(str, item["loc"])) or "all", item["msg"].lower()) for item in error.errors()]
            problems = "; ".join(f"{where}: {what}" for where, what in found)
            raise ArtifactError(f"malformed model info: {problems}") from error
        if info.vocab_size < 1 or info.max_context < 1:
            raise ArtifactError("malformed model info: vocab_size and max_context must be at least 1")
        if info.max_context > MOST_POSITIONS:
            raise ArtifactError(f"malformed model info: max_context is {info.max_context}, above {MOST_POSITIONS}")
        try:
            check_sizes(1, info.threads)
        except InputError as error:
            raise ArtifactError(f"malformed model info: {error}") from error
        return info

    def check(self, inputs: Mapping[str, InputSpec]) -> None:
        """Raise ArtifactError if more is claimed than the tables of the program have rows for."""
        for field_name, name in (("vocab_size", "input_ids"), ("max_context", POSITION)):
            claimed, limit = getattr(self, field_name), inputs[name].limit if name in inputs else None
            if limit is not None and claimed > limit:
                raise ArtifactError(f"{field_name} is {claimed}, but the program has tables for {limit} only")
