"""A step of a program as a pure function: (weights, cache, arrays) -> (cache, outputs)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import Array
from torch.fx import Node

from llmc.ir.program import Program, type_of
from llmc_xla.attention import Chunks, attend
from llmc_xla.formats import Matrix, dense
from llmc_xla.ops import OPS, READ_AS_STORED

LOWERED = frozenset(OPS) | {"attention", "pool", "select_rows"}

Cache = list[tuple[Array, Array]]
"""Keys `[blocks + 1, BLOCK, G, D]` and values `[blocks + 1, BLOCK, G, Dv]` of each pair, in the order of `cache_pairs`."""

Step = Callable[[Mapping[str, Any], Cache, Mapping[str, Any]], tuple[Cache, dict[str, Array]]]


def cache_pairs(program: Program) -> list[tuple[Node, Node]]:
    """The pairs of key and value nodes that attention reads from a cache of their own, in order; none of whole sequences."""
    if program.whole_sequences:
        return []
    return list(dict.fromkeys((node.args[1], node.args[2]) for node in program.find("attention")))  # type: ignore[misc]


def step_function(program: Program) -> Step:
    """The step of a program over the arrays of `shapes.arrays`, to be traced with 64-bit types and full precision.

    Tokens first write their keys and values into their blocks, then attend. The arrays' sizes are the shape of the step.
    """
    pairs = cache_pairs(program)

    def step(weights: Mapping[str, Any], cache: Cache, arrays: Mapping[str, Any]) -> tuple[Cache, dict[str, Array]]:
        cache, chunks = list(cache), Chunks(**arrays["chunks"])
        written: set[int] = set()
        values: dict[Any, Any] = {None: None}

        def attention(node: Node) -> Array:
            q, k, v, *optional = [*node.args, None, None][:5]
            sinks, bias = (dense(values[operand]) for operand in optional)
            if program.whole_sequences:
                step_values = values[k][:, None], values[v][:, None]
                return attend(values[q], step_values, sinks, bias, chunks, **node.kwargs)  # type: ignore[arg-type]
            pair = k, v
            index = pairs.index(tuple(pair))  # type: ignore[arg-type]
            if index not in written:
                stored = zip(cache[index], pair, strict=True)
                cache[index] = tuple(old.at[arrays["block"], arrays["slot"]].set(values[new]) for old, new in stored)  # type: ignore[assignment]
                written.add(index)
            return attend(values[q], cache[index], sinks, bias, chunks, **node.kwargs)  # type: ignore[arg-type]

        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = arrays["inputs"][node.target]
            elif node.op == "get_attr":
                values[node] = Matrix(weights[node.target], type_of(node).shape)  # type: ignore[arg-type]
            elif node.op == "call_function":
                name = node.target.name
                if name == "attention":
                    values[node] = attention(node)
                elif name == "select_rows":
                    values[node] = values[node.args[0]][arrays["rows"]]
                elif name == "pool":
                    values[node] = pool(values[node.args[0]], arrays["runs"], **node.kwargs)
                else:
                    operands = [values[arg] if isinstance(arg, Node) else arg for arg in node.args]
                    if name not in READ_AS_STORED:
                        operands = [dense(operand) for operand in operands]
                    values[node] = OPS[name](*operands, **node.kwargs)
        return cache, {name: values[node] for name, node in zip(program.outputs, program.results, strict=True)}

    return step


def pool(x: Array, runs: Mapping[str, Array], how: str) -> Array:
    """One entry of each run of tokens; runs: the `run` of each token, and the `first` and `last` token of each run."""
    if how in ("first", "last"):
        return x[runs[how]]
    count = len(runs["first"])
    if how == "max":
        return jax.ops.segment_max(x, runs["run"], count)
    total = jax.ops.segment_sum(x, runs["run"], count)
    tokens = (runs["last"] - runs["first"] + 1).reshape(-1, *[1] * (x.ndim - 1))
    return total / tokens.astype(x.dtype) if how == "mean" else total


def copy_blocks(cache: Cache, copies: Array) -> Cache:
    """The cache after copies `[C, 2]` of blocks (from, to): all are read, then all written."""
    sources, targets = copies.T
    return [(keys.at[targets].set(keys[sources]), values.at[targets].set(values[sources])) for keys, values in cache]
