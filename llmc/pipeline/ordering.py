"""The order of passes: what they declare decides, and where they declare nothing, the order that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import networkx

from llmc.errors import PipelineError
from llmc.pipeline.base import Pass


def order(passes: Sequence[tuple[str, Pass]]) -> tuple[list[tuple[str, Pass]], list[str]]:
    """`(ordered, moves)` for pairs of key and pass: a stable topological sort, and a sentence for each pass that moved.

    Raises PipelineError for a cycle, naming the passes in it, and for a requirement that nothing before it provides.
    """
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(passes)))
    for i, (_, first) in enumerate(passes):
        for j, (_, second) in enumerate(passes):
            if i != j and first.name != second.name:
                if second.capabilities & set(first.before):
                    graph.add_edge(i, j, reason=f"{first.name} must run before {second.name}")
                if second.capabilities & (set(first.after) | set(first.requires)):
                    graph.add_edge(j, i, reason=f"{first.name} must run after {second.name}")
    try:
        positions = list(networkx.lexicographical_topological_sort(graph))
    except networkx.NetworkXUnfeasible as error:
        cycle = networkx.find_cycle(graph)
        reasons = "; ".join(graph.edges[a, b]["reason"] for a, b in cycle)
        raise PipelineError(f"the passes cannot be ordered: {reasons}") from error
    ordered = [passes[i] for i in positions]
    provided: set[str] = set()
    for _, item in ordered:
        missing = set(item.requires) - provided
        if missing:
            raise PipelineError(f"pass '{item.name}' requires '{', '.join(sorted(missing))}', which no pass before it provides")
        provided |= item.capabilities
    return ordered, [_describe(graph, passes, positions, i) for i in _moved(positions)]


def _moved(positions: list[int]) -> list[int]:
    """Passes that now stand after one that was asked for later."""
    return [p for place, p in enumerate(positions) if any(earlier > p for earlier in positions[:place])]


def _describe(graph: networkx.DiGraph, passes: Sequence[tuple[str, Pass]], positions: list[int], moved: int) -> str:
    before = positions[: positions.index(moved)]
    causes = [graph.edges[a, moved]["reason"] for a in graph.predecessors(moved) if a > moved and a in before]
    causes = causes or [graph.edges[a, moved]["reason"] for a in graph.predecessors(moved)]
    return f"{passes[moved][0]} was moved back: {'; '.join(causes) or 'an earlier pass moved'}"
