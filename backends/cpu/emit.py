"""What each op becomes in C++: one function an op, in the table EMIT."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.fx import Node

from llmc.backends.cpu.loops import (
    Access,
    broadcast_steps,
    contiguous_steps,
    element,
    located,
    map_rows,
    nest,
    row_loop,
)
from llmc.backends.cpu.plan import Location
from llmc.backends.cpu.score import number
from llmc.ir.program import type_of
from llmc.ir.types import TensorType

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator

Emit = Callable[["Generator", Node], None]
EMIT: dict[str, Emit] = {}

INFIX = {"add": "+", "sub": "-", "mul": "*", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
         "logical_and": "&&", "logical_or": "||"}  # fmt: skip
EXPRESSIONS = {
    **{name: f"{{0}} {sign} {{1}}" for name, sign in INFIX.items()},
    **{name: f"std::{name}({{0}})" for name in ("log", "sqrt", "sin", "cos", "tanh", "erf")},
    **{name: f"{name}_({{0}})" for name in ("exp", "sigmoid", "silu", "relu")},
    "abs": "std::abs({0})",
    "rsqrt": "1.0f / std::sqrt({0})",
    "neg": "-{0}",
    "logical_not": "!{0}",
    "div": "float({0}) / float({1})",
    "pow": "std::pow({0}, {1})",
    "maximum": "{0} > {1} ? {0} : {1}",
    "minimum": "{0} < {1} ? {0} : {1}",
    "where": "{0} ? {1} : {2}",
}
ACTIVATIONS = {"silu": "silu_", "relu": "relu_", "gelu": "gelu_", "gelu_tanh": "gelu_tanh_", "sigmoid": "sigmoid_",
               "tanh": "std::tanh"}  # fmt: skip
CTYPES = {"float32": "float", "int64": "int64_t", "bool": "uint8_t", "int16": "int16_t"}


def emits(*names: str) -> Callable[[Emit], Emit]:
    """Enter a function into the table."""

    def enter(function: Emit) -> Emit:
        EMIT.update(dict.fromkeys(names, function))
        return function

    return enter


def elementwise(g: Generator, node: Node, expression: str) -> None:
    """A loop over all elements, operands broadcast."""
    result = type_of(node)
    target = g.new(node)
    accesses: list[Access] = []
    texts: list[str] = []
    for arg in node.args:
        if isinstance(arg, Node):
            texts.append(f"{{{len(accesses)}}}")
            accesses.append(access(g, arg, result))
        else:
            value = float(arg) if result.dtype == "float32" and not isinstance(arg, bool) else arg  # type: ignore[arg-type]
            texts.append(number(value))  # type: ignore[arg-type]
    out = located(target, contiguous_steps(result.fixed))
    text = map_rows(g.count(node), result.fixed, out, accesses, expression.format(*texts))
    g.add(node, text, target, rows=True)


def access(g: Generator, arg: Node, result: TensorType) -> Access:
    """An operand in loops over the result."""
    if arg.op == "get_attr":
        return Access(g.plain(arg), 0, broadcast_steps(type_of(arg).shape, result.fixed))  # type: ignore[arg-type]
    return located(g.at(arg), broadcast_steps(type_of(arg).fixed, result.fixed))


def _simple(expression: str) -> Emit:
    return lambda g, node: elementwise(g, node, expression)


for _name, _expression in EXPRESSIONS.items():
    EMIT[_name] = _simple(_expression)


@emits("gelu")
def _gelu(g: Generator, node: Node) -> None:
    elementwise(g, node, "gelu_tanh_({0})" if node.kwargs["approximate"] == "tanh" else "gelu_({0})")


@emits("cast")
def _cast(g: Generator, node: Node) -> None:
    kind = str(node.kwargs["dtype"])
    elementwise(g, node, "{0} != 0" if kind == "bool" else f"{CTYPES[kind]}({{0}})")


@emits("gated")
def _gated(g: Generator, node: Node) -> None:
    elementwise(g, node, f"{ACTIVATIONS[str(node.kwargs['activation'])]}({{0}}) * {{1}}")


def copy(g: Generator, node: Node, source: Access, sizes: tuple[int, ...], target: Access, into: Location) -> None:
    """Move elements."""
    g.add(node, map_rows(g.count(node), sizes, target, [source], "{0}"), into, rows=True)


@emits("reshape")
def _reshape(g: Generator, node: Node) -> None:
    g.alias(node, g.at(node.args[0]))


@emits("slice")
def _slice(g: Generator, node: Node) -> None:
    x: Any = node.args[0]
    sizes, place = type_of(x).fixed, int(node.kwargs["dim"]) - 1  # type: ignore[arg-type]
    start, step = int(node.kwargs["start"]), int(node.kwargs.get("step", 1))  # type: ignore[arg-type]
    steps = contiguous_steps(sizes)
    location, result = g.at(x), type_of(node)
    if step == 1 and all(size == 1 for size in sizes[:place]):
        g.alias(node, Location(location.buffer, location.offset + start * steps[place], result.width))
        return
    target = g.new(node)
    inner = [s * step if i == place else s for i, s in enumerate(steps)]
    source = located(location, inner, start * steps[place])
    copy(g, node, source, result.fixed, located(target, contiguous_steps(result.fixed)), target)


@emits("permute")
def _permute(g: Generator, node: Node) -> None:
    x: Any = node.args[0]
    steps = contiguous_steps(type_of(x).fixed)
    target, result = g.new(node), type_of(node)
    dims: Any = node.kwargs["dims"]
    moved = [steps[dim - 1] for dim in dims]
    copy(g, node, located(g.at(x), moved), result.fixed, located(target, contiguous_steps(result.fixed)), target)


@emits("expand")
def _expand(g: Generator, node: Node) -> None:
    elementwise(g, node, "{0}")


@emits("concat")
def _concat(g: Generator, node: Node) -> None:
    target, result = g.new(node), type_of(node)
    place = int(node.kwargs["dim"]) - 1  # type: ignore[arg-type]
    steps, start = contiguous_steps(result.fixed), 0
    for x in node.args:
        sizes = type_of(x).fixed
        source = located(g.at(x), contiguous_steps(sizes))
        copy(g, node, source, sizes, located(target, steps, start * steps[place]), target)
        start += sizes[place]


@emits("select_rows")
def _select_rows(g: Generator, node: Node) -> None:
    x: Any = node.args[0]
    location, target = g.at(x), g.new(node)
    source = element(located(location, (1,)), (1,), ("i",), row="step.out_rows[r]")
    body = f"{target.buffer.name}[r * {target.width} + i] = {source};"
    g.add(node, f"{row_loop('R')}\n{nest([target.width], ['i'], body)}", target)


@emits("embedding")
def _embedding(g: Generator, node: Node) -> None:
    ids, table = node.args
    location, target = g.packed(ids), g.new(node)
    size = int(type_of(table).shape[1])
    count = times(g.count(node), type_of(ids).width)
    layout = g.packer.layout(table.target)  # type: ignore[union-attr,arg-type]
    if layout == "plain":
        body = f"{target.buffer.name}[r * {size} + i] = {g.plain(table)}[{location.pointer}[r] * {size} + i];"  # type: ignore[arg-type]
        text = f"{row_loop(count)}\n{nest([size], ['i'], body)}"
    else:
        kernel = "embedding_f32" if layout == "panels" else "embedding_i8"
        text = f"{kernel}<{size}>({location.pointer}, {g.fields(table)}, {target.pointer}, {count}, team);"  # type: ignore[arg-type]
    g.add(node, text, target, rows=True)


def times(count: str, factor: int) -> str:
    """`T`, or `T * 4`."""
    return count if factor == 1 else f"{count} * {factor}"


@emits("linear")
def _linear(g: Generator, node: Node) -> None:
    x: Any = node.args[0]
    weight: Any = node.args[1]
    n, k = (int(size) for size in type_of(weight).shape)
    outer = type_of(x).width // k
    location = g.at(x) if outer == 1 else g.packed(x)
    stride = location.stride if outer == 1 else k
    count = times(g.count(node), outer)
    bias = g.plain(node.args[2]) if len(node.args) > 2 and isinstance(node.args[2], Node) else "nullptr"
    layout, rounded = g.packer.layout(weight.target), node.kwargs.get("activations", "float32") == "int8"
    if (layout == "int8") != rounded:
        g.refuse(node, "the weight and the activations must both be int8 or both be float32")
    if not rounded:
        target = g.new(node)
        args = f"{location.pointer}, {stride}, {g.fields(weight)}, {bias}, {target.pointer}, {count}, team"
        g.add(node, f"linear_f32<{n}, {k}>({args});", target)
        return
    q = g.scratch(f"{node.name}_q", outer * (-(-k // 32) * 32), "int16")
    scale = g.scratch(f"{node.name}_s", outer, "float32")
    args = f"{location.pointer}, {stride}, {q.pointer}, {scale.pointer}, {count}, team"
    g.add(node, f"quantize_rows<{k}>({args});", q, scale, rows=outer == 1, reads=[location], comment="")
    target = g.new(node)
    args = f"{q.pointer}, {scale.pointer}, {g.fields(weight)}, {bias}, {target.pointer}, {count}, team"
    g.add(node, f"linear_i8<{n}, {k}>({args});", target, reads=[q, scale])


@emits("rms_norm", "layer_norm")
def _norm(g: Generator, node: Node) -> None:
    x: Any = node.args[0]
    name = node.target.name  # type: ignore[union-attr]
    size = int(type_of(x).shape[-1])
    location, target = g.at(x), g.new(node)
    given = [g.plain(arg) if isinstance(arg, Node) else "nullptr" for arg in node.args[1:]]
    given += ["nullptr"] * ((1 if name == "rms_norm" else 2) - len(given))
    eps = number(float(node.kwargs["eps"]))  # type: ignore[arg-type]
    args = ", ".join([location.pointer, str(location.stride), *given, eps, target.pointer, g.count(node), "team"])
    g.add(node, f"{name}<{type_of(x).width // size}, {size}>({args});", target, rows=True)


@emits("rope")
def _rope(g: Generator, node: Node) -> None:
    x, cos, sin = (g.at(arg) for arg in node.args)
    target, result = g.new(node), type_of(node)
    size, pairs = int(result.shape[-1]), int(type_of(node.args[1]).shape[-1])
    halves = "true" if node.kwargs["layout"] == "halves" else "false"
    angles = f"{cos.pointer}, {cos.stride}, {sin.pointer}, {sin.stride}"
    args = f"{x.pointer}, {x.stride}, {angles}, {target.pointer}, {g.count(node)}, team"
    g.add(node, f"rope<{result.width // size}, {size}, {pairs}, {halves}>({args});", target, rows=True)


@emits("attention")
def _attention(g: Generator, node: Node) -> None:
    q, k, v = (type_of(arg) for arg in node.args[:3])
    slot, fresh = g.cache(node)
    functor = g.functor(node)
    if fresh:
        for part, arg in (("keys", node.args[1]), ("values", node.args[2])):
            where = g.at(arg)
            groups, size = type_of(arg).fixed
            args = f"{where.pointer}, {where.stride}, {slot[part].name}, step.tokens, team"
            g.add(node, f"write_cache<{groups}, {size}>({args});", reads=[where], writes=[slot[part]], comment="")
    query, target = g.at(node.args[0]), g.new(node)
    sinks = g.plain(node.args[3]) if len(node.args) > 3 and isinstance(node.args[3], Node) else "nullptr"
    sizes = f"{q.fixed[0]}, {k.fixed[0]}, {q.fixed[1]}, {v.fixed[1]}, {functor}"
    scale = number(float(node.kwargs["scale"]))  # type: ignore[arg-type]
    args = (f"{query.pointer}, {query.stride}, {slot['keys'].name}, {slot['values'].name}, {sinks}, {scale}, "
            f"{target.pointer}, step.tokens, team")  # fmt: skip
    g.add(node, f"attention<{sizes}>({args});", target, reads=[query, slot["keys"], slot["values"]])


FOLDS = {"sum": ("0", "a + {0}"), "mean": ("0", "a + {0}"), "amax": ("-INFINITY", "{0} > a ? {0} : a"),
         "amin": ("INFINITY", "{0} < a ? {0} : a")}  # fmt: skip


@emits("sum", "mean", "amax", "amin")
def _reduce(g: Generator, node: Node) -> None:
    x: Any = node.args[0]
    name = node.target.name  # type: ignore[union-attr]
    sizes = type_of(x).fixed
    reduced = {int(dim) - 1 for dim in node.kwargs["dims"]}  # type: ignore[union-attr,arg-type]
    kept = [i for i in range(len(sizes)) if i not in reduced]
    steps, target = contiguous_steps(sizes), g.new(node)
    out_steps = contiguous_steps([sizes[i] for i in kept])
    names = [f"i{i}" for i in range(len(sizes))]
    count = math.prod(sizes[i] for i in reduced)
    out = element(located(target, out_steps), out_steps, [names[i] for i in kept])
    source = located(g.at(x), steps)
    if name in ("sum", "mean") and reduced == {len(sizes) - 1} and type_of(node).dtype == "float32":
        first = element(source, [steps[i] for i in kept], [names[i] for i in kept])
        value = f"total<{sizes[-1]}>(&{first})"
        body = f"{out} = {value}{f' / {count}' if name == 'mean' else ''};"
        text = f"{row_loop(g.count(node))}\n{nest([sizes[i] for i in kept], [names[i] for i in kept], body)}"
        g.add(node, text, target, rows=True)
        return
    start, fold = FOLDS[name]
    inner = nest([sizes[i] for i in sorted(reduced)], [names[i] for i in sorted(reduced)],
                 f"a = {fold.format(element(source, steps, names))};", indent=0)  # fmt: skip
    ctype = CTYPES[type_of(node).dtype]
    body = f"{{ {ctype} a = {start};\n{inner}\n{out} = a{f' / {count}' if name == 'mean' else ''}; }}"
    text = f"{row_loop(g.count(node))}\n{nest([sizes[i] for i in kept], [names[i] for i in kept], body)}"
    g.add(node, text, target, rows=True)


@emits("softmax")
def _softmax(g: Generator, node: Node) -> None:
    x: Any = node.args[0]
    sizes, place = type_of(x).fixed, int(node.kwargs["dim"]) - 1  # type: ignore[arg-type]
    steps, target = contiguous_steps(sizes), g.new(node)
    names = [f"i{i}" for i in range(len(sizes))]
    outer = [i for i in range(len(sizes)) if i != place]
    source, out = located(g.at(x), steps), located(target, steps)
    read, write = element(source, steps, names), element(out, steps, names)
    loop = f"for (int i{place} = 0; i{place} < {sizes[place]}; i{place}++)"
    body = (f"{{ float top = -INFINITY, total = 0;\n{loop} top = {read} > top ? {read} : top;\n"
            f"{loop} total += {write} = exp_({read} - top);\n{loop} {write} /= total; }}")  # fmt: skip
    text = f"{row_loop(g.count(node))}\n{nest([sizes[i] for i in outer], [names[i] for i in outer], body)}"
    g.add(node, text, target, rows=True)


@emits("matmul")
def _matmul(g: Generator, node: Node) -> None:
    a, b = (type_of(arg).fixed for arg in node.args)
    result, target = type_of(node).fixed, g.new(node)
    inner = a[-1]
    loops = [*result, inner]
    names = [f"i{i}" for i in range(len(result))]
    lead = result[:-2]
    steps_a = (*broadcast_steps((*a[:-2], a[-2] * a[-1]), (*lead, a[-2] * a[-1]))[:-1], inner, 0, 1)
    steps_b = (*broadcast_steps((*b[:-2], b[-2] * b[-1]), (*lead, b[-2] * b[-1]))[:-1], 0, 1, b[-1])
    left = element(located(g.at(node.args[0]), steps_a), steps_a, [*names, "c"])
    right = element(located(g.at(node.args[1]), steps_b), steps_b, [*names, "c"])
    steps = contiguous_steps(result)
    out = element(located(target, steps), steps, names)
    body = f"{{ float s = 0;\nfor (int c = 0; c < {loops[-1]}; c++) s += {left} * {right};\n{out} = s; }}"
    g.add(node, f"{row_loop(g.count(node))}\n{nest(result, names, body)}", target, rows=True)
