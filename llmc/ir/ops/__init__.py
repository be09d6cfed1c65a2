"""The dialect: importing this package declares every op."""

from llmc.ir.composite import FusedOp
from llmc.ir.op import OPS, Op, lookup
from llmc.ir.ops.attention import attention
from llmc.ir.ops.contractions import embedding, linear, matmul, round_rows
from llmc.ir.ops.experts import expert_linear, top_k, top_k_indices
from llmc.ir.ops.fused import (
    ROUNDED,
    add_layer_norm,
    add_rms_norm,
    rope_attention,
    rounded_add_layer_norm,
    rounded_add_rms_norm,
    rounded_gated,
    rounded_gelu,
    rounded_layer_norm,
    rounded_relu,
    rounded_rms_norm,
    rounded_silu,
)
from llmc.ir.ops.norms import gated, layer_norm, rms_norm, rope
from llmc.ir.ops.pointwise import (
    BINARY,
    UNARY,
    abs_,
    add,
    cast,
    cos,
    div,
    eq,
    erf,
    exp,
    ge,
    gelu,
    gt,
    le,
    log,
    logical_and,
    logical_not,
    logical_or,
    lt,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    pow_,
    relu,
    rsqrt,
    sigmoid,
    silu,
    sin,
    sqrt,
    sub,
    tanh,
    where,
)
from llmc.ir.ops.pooling import pool
from llmc.ir.ops.reductions import REDUCTIONS, amax, amin, mean, softmax, sum_
from llmc.ir.ops.views import concat, expand, permute, reshape, select_rows, slice_

ELEMENTWISE = {**UNARY, **BINARY, "gelu": gelu, "where": where, "cast": cast, "logical_not": logical_not}
"""Ops whose result at an element depends on the operands at that element alone."""

VIEWS = {o.name: o for o in (reshape, permute, slice_, concat, expand)}
"""Ops that move elements and compute nothing."""

ATTENTIONS = {o.name: o for o in (attention, rope_attention)}
"""Ops that relate positions; their first operands are q, k and v."""

FUSED = {name: o for name, o in OPS.items() if isinstance(o, FusedOp)}
"""Ops that stand for others."""

__all__ = [
    "ATTENTIONS",
    "BINARY",
    "ELEMENTWISE",
    "FUSED",
    "OPS",
    "REDUCTIONS",
    "ROUNDED",
    "UNARY",
    "VIEWS",
    "Op",
    "abs_",
    "add",
    "add_layer_norm",
    "add_rms_norm",
    "amax",
    "amin",
    "attention",
    "cast",
    "concat",
    "cos",
    "div",
    "embedding",
    "eq",
    "erf",
    "exp",
    "expand",
    "expert_linear",
    "gated",
    "ge",
    "gelu",
    "gt",
    "layer_norm",
    "le",
    "linear",
    "log",
    "logical_and",
    "logical_not",
    "logical_or",
    "lookup",
    "lt",
    "matmul",
    "maximum",
    "mean",
    "minimum",
    "mul",
    "ne",
    "neg",
    "permute",
    "pool",
    "pow_",
    "relu",
    "reshape",
    "rms_norm",
    "rope",
    "rope_attention",
    "round_rows",
    "rounded_add_layer_norm",
    "rounded_add_rms_norm",
    "rounded_gated",
    "rounded_gelu",
    "rounded_layer_norm",
    "rounded_relu",
    "rounded_rms_norm",
    "rounded_silu",
    "rsqrt",
    "select_rows",
    "sigmoid",
    "silu",
    "sin",
    "slice_",
    "softmax",
    "sqrt",
    "sub",
    "sum_",
    "tanh",
    "top_k",
    "top_k_indices",
    "where",
]
