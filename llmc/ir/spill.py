"""Weights kept in a file without a name: what was made once is mapped from then on, and takes no memory of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from llmc.errors import ArtifactError
from llmc.ir.tensor_file import write_weights
from llmc.ir.weights import Weight


@dataclass(eq=False)
class Spilled(Weight):
    """A weight whose components were written to a file. base: what they were made from; handle: the open file."""

    base: Weight
    handle: Any
    name: str

    def __post_init__(self) -> None:
        self.shape, self.format = self.base.shape, self.base.format

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, Tensor]:
        keys = {part: f"{self.name}:{part}" for part in self.format.components(self.shape)}
        if not self.shape:
            return {part: self.handle.get_tensor(key) for part, key in keys.items()}
        return {part: self.handle.get_slice(key)[start:stop] for part, key in keys.items()}


def spill(weights: Mapping[str, Weight]) -> dict[str, Weight]:
    """The same weights, each evaluated once, a block of rows at a time, into a file of the folder for temporary files.

    The file loses its name as soon as it is open, so that nothing stays behind however the process ends. Raises ArtifactError
    if there is no room for it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="llmc-") as folder:
            path = Path(folder) / "weights.safetensors"
            write_weights(weights, path)
            handle = safe_open(path, framework="pt")
    except OSError as error:
        where = tempfile.gettempdir()
        raise ArtifactError(f"{where}: cannot keep weights there for now: {error}; set TMPDIR to another folder") from error
    return {name: Spilled(weight, handle, name) for name, weight in weights.items()}
