"""What is known of a value before it exists: dtype, shape, and where in the user's model it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace

TOKENS = "T"
"""First dimension of a value that has one entry for each token of a step."""

ROWS = "R"
"""First dimension of a value that has one entry for each row of output that was asked for."""

SEQUENCES = "S"
"""First dimension of a value that has one entry for each sequence of a step, all of which are whole."""

DTYPES = ("float32", "int64", "bool")
"""Dtypes of computed values. How a weight is stored is its format's matter."""


@dataclass(frozen=True)
class TensorType:
    """Dtype and shape of a value. The first dimension is TOKENS, ROWS or SEQUENCES, or all are ints (a weight)."""

    dtype: str
    shape: tuple[int | str, ...]

    @property
    def streams(self) -> bool:
        """Whether there is one entry a token (or requested row, or sequence), rather than one for the whole program."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    @property
    def rows(self) -> str | None:
        """TOKENS, ROWS, SEQUENCES, or None for a weight."""
        return str(self.shape[0]) if self.streams else None

    @property
    def fixed(self) -> tuple[int, ...]:
        """The dimensions known at compile time: all but a first TOKENS, ROWS or SEQUENCES."""
        return tuple(int(size) for size in (self.shape[1:] if self.streams else self.shape))

    @property
    def width(self) -> int:
        """Number of elements of one entry."""
        count = 1
        for size in self.fixed:
            count *= size
        return count

    def with_fixed(self, fixed: tuple[int, ...], dtype: str | None = None) -> TensorType:
        """The same rows with other fixed dimensions."""
        shape = (self.shape[0], *fixed) if self.streams else tuple(fixed)
        return TensorType(dtype or self.dtype, shape)

    def __str__(self) -> str:
        return f"{SHORT[self.dtype]}[{', '.join(map(str, self.shape))}]"


INPUTS = {"input_ids": TensorType("int64", (TOKENS,)), "position": TensorType("int64", (TOKENS,))}
"""What programs may read for each token, by name: the ids, and positions within the sequence (`llmc.runtime.contract`)."""

SHORT = {"float32": "f32", "int64": "i64", "bool": "bool"}


@dataclass(frozen=True)
class Origin:
    """Where a node comes from: module path, `file:line` of the model's source, and the passes that made or moved it."""

    module: str = ""
    source: str = ""
    passes: tuple[str, ...] = ()

    def through(self, name: str) -> Origin:
        """This origin after the pass `name` rewrote the node."""
        return self if name in self.passes else replace(self, passes=(*self.passes, name))

    @staticmethod
    def merge(origins: list[Origin]) -> Origin:
        """The origin of a node that stands for several: their common module, the first source, all passes."""
        known = [origin for origin in origins if origin.module or origin.source]
        if not known:
            return origins[0] if origins else Origin()
        parts = [origin.module.split(".") for origin in known]
        common: list[str] = []
        for names in zip(*parts, strict=False):
            if len(set(names)) > 1:
                break
            common.append(names[0])
        passes = tuple(dict.fromkeys(name for origin in origins for name in origin.passes))
        return Origin(".".join(common), known[0].source, passes)

    def __str__(self) -> str:
        text = self.module or self.source or "?"
        return f"{text} ({', '.join(self.passes)})" if self.passes else text
