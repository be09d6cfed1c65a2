"""What a pass did, for explanations; a saved model is opened with it, so it imports little."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


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

    @property
    def name(self) -> str:
        """Name of the pass: the key of its second instance is "name#2"."""
        return self.key.partition("#")[0]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> PassRecord:
        """The record of `to_json`."""
        return PassRecord(**{**data, "refused": [(where, why) for where, why in data["refused"]]})
