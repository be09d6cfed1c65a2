"""The proof that positions are kept apart, to read: the axes of every value, and of each attention which keys it admits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from llmc.ir.cost import kept_bytes
from llmc.ir.program import Program, origin_of, type_of
from llmc.ir.score import window
from llmc.ir.types import ROWS, SEQUENCES, SHORT, TOKENS, TensorType

LABELS = {TOKENS: "token", ROWS: "row", SEQUENCES: "sequence"}
LEGEND = """\
token: one entry for each token of a step; row: one for each token whose output was asked for; sequence: one for each
sequence; numbers: fixed dimensions. Every op but attention and pool computes an entry from the same entry of its operands (and
from weights); select_rows picks entries."""


def axes(program: Program) -> dict[str, Any]:
    """Plain data: `inputs` and `nodes` with their axes, `attentions` with what they admit and cache."""
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    return {
        "inputs": [_value(node) for node in placeholders],
        "nodes": [
            {**_value(node), "op": _op(node), "reads": _reads(node), "origin": str(origin_of(node))} for node in program.nodes
        ],
        "attentions": _attentions(program),
    }


def axes_report(program: Program) -> str:
    """The data of `axes` as tables of plain text."""
    data = axes(program)
    lines = [LEGEND, ""]
    lines += _table(("input", "axes", "dtype"), [(v["name"], _axes(v), v["dtype"]) for v in data["inputs"]])
    nodes = [(n["name"], _axes(n), n["dtype"], f"{n['op']}({', '.join(n['reads'])})", n["origin"]) for n in data["nodes"]]
    lines += ["", *_table(("node", "axes", "dtype", "op", "of"), nodes)]
    attentions = data["attentions"]
    if attentions:
        headings = ("attention", "heads", "key heads", "score", "admits", "window", "cache bytes a token")
        plain = ("name", "heads", "key_heads", "score", "admits")
        rows = [(*(one[key] for key in plain), one["window"] or "none", _cache(one)) for one in attentions]
        lines += ["", "Attention reads keys k of the same sequence for a query q, where `admits` is true:"]
        lines += _table(headings, rows)
    total = sum(a["cache_bytes_per_token"] for a in attentions)
    lines += ["", f"cache in all: {total} bytes a token, where what is rounded is kept so"]
    return "\n".join(lines)


def _value(node: Node) -> dict[str, Any]:
    kind: TensorType = type_of(node)
    return {"name": node.name, "dtype": SHORT[kind.dtype], "axes": [LABELS.get(str(size), size) for size in kind.shape]}


def _op(node: Node) -> str:
    return node.target.name  # type: ignore[union-attr]


def _reads(node: Node) -> list[str]:
    return [arg.name for arg in node.all_input_nodes if arg.op != "get_attr"]


def _attentions(program: Program) -> list[dict[str, Any]]:
    first: dict[tuple[Any, Any], str] = {}
    found = []
    for node in program.attentions:
        query, key = (type_of(arg) for arg in node.args[:2])
        pair = (node.args[1], node.args[2])
        owner = first.setdefault(pair, node.name)
        kept = owner == node.name and not program.whole_sequences
        cached = sum(map(kept_bytes, pair)) if kept else 0  # type: ignore[arg-type]
        found.append(
            {
                "name": node.name,
                "origin": str(origin_of(node)),
                "heads": query.fixed[0],
                "key_heads": key.fixed[0],
                "score": str(node.kwargs["score"]),
                "admits": str(node.kwargs["admits"]),
                "window": window(node.kwargs["admits"]),  # type: ignore[arg-type]
                "cache_bytes_per_token": cached,
                "cache_of": owner,
            }
        )
    return found


def _axes(value: dict[str, Any]) -> str:
    return f"[{', '.join(map(str, value['axes']))}]"


def _cache(attention: dict[str, Any]) -> str:
    shared = attention["cache_of"] != attention["name"]
    return f"that of {attention['cache_of']}" if shared else str(attention["cache_bytes_per_token"])


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Columns as wide as their longest entry."""
    texts = [headings, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(headings))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in texts]
