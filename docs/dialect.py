"""Writes docs/dialect.md from the declarations of the ops:  python docs/dialect.py"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from llmc.ir.composite import FusedOp
from llmc.ir.ops import OPS

PAGE = Path(__file__).with_name("dialect.md")
HEAD = """\
# The dialect

Every operation of a program, as declared in `llmc/ir/ops/`. This page is written by `python docs/dialect.py`.

Values have one entry for each token of a step (`T`), each requested row (`R`) or each sequence (`S`) in their first dimension,
which no op but `attention`, `select_rows` and `pool` touches; the other dimensions are fixed at compile time. Computed values
are `float32`, `int64` or `bool`. Weights have fixed dimensions only and are read in whatever format they are stored in: a
format belongs to the weight, never to an op. Calling an op with tensors runs its reference semantics, plain differentiable
PyTorch; calling it with `ANY.x`, `WEIGHT.w` and `SCALAR.s` makes a pattern (`llmc/ir/pattern.py`).
"""


def page() -> str:
    """The text of the page."""
    parts = [HEAD]
    files: dict[str, list[str]] = {}
    for op in OPS.values():
        files.setdefault(op.reference.__module__.rsplit(".", 1)[-1], []).append(op.name)
    for file, names in files.items():
        module = inspect.getmodule(OPS[names[0]].reference)
        title, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n")
        about = f"`llmc/ir/ops/{file}.py` {' '.join(rest.split())}".rstrip()
        parts.append(f"\n## {title.rstrip('.')}\n\n{about}\n")
        for name in names:
            parts.append(f"\n### `{signature(name)}`\n\n{inspect.cleandoc(OPS[name].__doc__ or '')}\n")
            if isinstance(OPS[name], FusedOp):
                parts.append(f"\n```python\n{body(name)}\n```\n")
    return "".join(parts)


def body(name: str) -> str:
    """The code of an op's reference semantics, which for a fused op says what it stands for."""
    function = ast.parse(inspect.getsource(OPS[name].reference)).body[0]
    assert isinstance(function, ast.FunctionDef)
    return "\n".join(map(ast.unparse, function.body[1:]))


def signature(name: str) -> str:
    """`op(operands, attributes)` as an op is called; what a runtime hands over is left out."""
    shown = []
    for parameter in inspect.signature(OPS[name].reference).parameters.values():
        if parameter.name == "context":
            continue
        mark = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        keyword = "=" if parameter.kind is parameter.KEYWORD_ONLY and not default else ""
        shown.append(f"{mark}{parameter.name}{keyword}{default}")
    return f"{name}({', '.join(shown)})"


if __name__ == "__main__":
    PAGE.write_text(page())
