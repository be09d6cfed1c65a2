"""What each op becomes in C++: one function an op, by kind of op, all in the table EMIT."""

from llmc.backends.cpu.emit import (
    attention,
    experts,
    norms,
    pointwise,
    products,
    reductions,
    rounding,
    sequences,
    views,
)
from llmc.backends.cpu.emit.table import EMIT

__all__ = ["EMIT", "attention", "experts", "norms", "pointwise", "products", "reductions", "rounding", "sequences", "views"]
