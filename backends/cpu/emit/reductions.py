"""Reductions over the fixed dimensions of a row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch.fx import Node

from llmc.backends.cpu.emit.table import emits
from llmc.backends.cpu.loops import contiguous_steps, element, located, nest, row_loop
from llmc.backends.cpu.plan import CTYPES
from llmc.ir.program import type_of

if TYPE_CHECKING:
    from llmc.backends.cpu.generate import Generator

FOLDS = {"sum": ("0", "a + {0}"), "mean": ("0", "a + {0}"), "amax": ("lowest<{ctype}>()", "maximum_({0}, a)"),
         "amin": ("highest<{ctype}>()", "minimum_({0}, a)")}  # fmt: skip
"""The value that a reduction starts from, and how the next element is added to it."""


@emits("sum", "mean", "amax", "amin")
def _reduce(g: Generator, node: Node) -> None:
    name = node.target.name  # type: ignore[union-attr]
    sizes = type_of(node.args[0]).fixed
    reduced = {int(dim) - 1 for dim in node.kwargs["dims"]}  # type: ignore[union-attr,arg-type]
    kept = [i for i in range(len(sizes)) if i not in reduced]
    steps, target = contiguous_steps(sizes), g.new(node)
    out_steps = contiguous_steps([sizes[i] for i in kept])
    names = [f"i{i}" for i in range(len(sizes))]
    count = math.prod(sizes[i] for i in reduced)
    out = element(located(target, out_steps), out_steps, [names[i] for i in kept])
    source = located(g.read(node, 0), steps)
    share = f" / {count}" if name == "mean" else ""
    if name in ("sum", "mean") and reduced == {len(sizes) - 1} and type_of(node).dtype == "float32":
        first = element(source, [steps[i] for i in kept], [names[i] for i in kept])
        body = f"{out} = total<{sizes[-1]}>(&{first}){share};"
    else:
        start, fold = FOLDS[name]
        ctype = CTYPES[type_of(node).dtype]
        inner = nest([sizes[i] for i in sorted(reduced)], [names[i] for i in sorted(reduced)],
                     f"a = {fold.format(element(source, steps, names))};", indent=0)  # fmt: skip
        body = f"{{ {ctype} a = {start.format(ctype=ctype)};\n{inner}\n{out} = a{share}; }}"
    text = f"{row_loop(g.count(node))}\n{nest([sizes[i] for i in kept], [names[i] for i in kept], body)}"
    g.add(node, text, target, rows=g.count(node))


@emits("softmax")
def _softmax(g: Generator, node: Node) -> None:
    sizes, place = type_of(node).fixed, int(node.kwargs["dim"]) - 1  # type: ignore[arg-type]
    steps, target = contiguous_steps(sizes), g.new(node)
    names = [f"i{i}" for i in range(len(sizes))]
    outer = [i for i in range(len(sizes)) if i != place]
    source, out = located(g.read(node, 0), steps), located(target, steps)
    if place == len(sizes) - 1:
        starts = (element(x, steps[:place], names[:place]) for x in (source, out))
        body = f"softmax<{sizes[place]}>({', '.join(f'&{start}' for start in starts)});"
    else:
        read, write = element(source, steps, names), element(out, steps, names)
        loop = f"for (int i{place} = 0; i{place} < {sizes[place]}; i{place}++)"
        body = (f"{{ float top = -INFINITY, all = 0;\n{loop} top = {read} > top ? {read} : top;\n"
                f"{loop} all += {write} = exp_({read} - top);\n{loop} {write} /= all; }}")  # fmt: skip
    text = f"{row_loop(g.count(node))}\n{nest([sizes[i] for i in outer], [names[i] for i in outer], body)}"
    g.add(node, text, target, rows=g.count(node))
