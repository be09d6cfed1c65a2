"""The order of passes: what they declare decides, and where they declare nothing, the order that was asked for.

"A before B" is kept by the first A and every B: a pass that is asked for a second time, later on, may run again later on.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx

from llmc.errors import PipelineError
from llmc.pipeline.base import Pass

Keyed = tuple[str, Pass]


def order(passes: Sequence[Keyed]) -> tuple[list[Keyed], list[str]]:
    """`(ordered, moves)` for pairs of key and pass: a stable topological sort, and a sentence for each pass that moved.

    Raises PipelineError for a cycle, naming the passes in it, and for a requirement that no other pass provides.
    """
    graph = _constraints(passes)
    _add_requirements(graph, passes)
    try:
        positions = list(networkx.lexicographical_topological_sort(graph))
    except networkx.NetworkXUnfeasible as error:
        reasons = "; ".join(graph.edges[edge]["reason"] for edge in networkx.find_cycle(graph))
        raise PipelineError(f"the passes cannot be ordered: {reasons}") from error
    return [passes[i] for i in positions], _moves(graph, passes, positions)


def _constraints(passes: Sequence[Keyed]) -> networkx.DiGraph:
    """A graph over indices into `passes`; an edge starts at what runs first and says why."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(len(passes)))
    first = {item.name: i for i, (_, item) in reversed(list(enumerate(passes)))}
    for i in first.values():
        for j, (key, later) in enumerate(passes):
            earlier = passes[i][1]
            declared = later.capabilities & set(earlier.before) or earlier.capabilities & set(later.after)
            if declared and earlier.name != later.name:
                graph.add_edge(i, j, reason=f"{passes[i][0]} must run before {key}")
    return graph


def _add_requirements(graph: networkx.DiGraph, passes: Sequence[Keyed]) -> None:
    """For each requirement an edge from one provider, in the order asked for, such that no cycle comes of it if that can be."""
    needs: list[tuple[int, list[int]]] = []
    for j, (key, item) in enumerate(passes):
        for needed in sorted(item.requires):
            providers = [i for i, (_, other) in enumerate(passes) if other.name != item.name and needed in other.capabilities]
            if not providers:
                raise PipelineError(f"pass '{key}' requires '{needed}', which no pass before it provides")
            needs.append((j, providers))
    if not _choose(graph, needs, passes):
        for j, providers in needs:  # the cycle that is to be named
            _require(graph, providers[0], j, passes)


def _choose(graph: networkx.DiGraph, needs: list[tuple[int, list[int]]], passes: Sequence[Keyed]) -> bool:
    """Whether there are providers for all needs without a cycle; their edges are in the graph then."""
    if not needs:
        return True
    (j, providers), rest = needs[0], needs[1:]
    for i in providers:
        if networkx.has_path(graph, j, i):
            continue
        there = graph.has_edge(i, j)
        _require(graph, i, j, passes)
        if _choose(graph, rest, passes):
            return True
        if not there:
            graph.remove_edge(i, j)
    return False


def _require(graph: networkx.DiGraph, i: int, j: int, passes: Sequence[Keyed]) -> None:
    if not graph.has_edge(i, j):
        graph.add_edge(i, j, reason=f"{passes[j][0]} requires {passes[i][0]}")


def _moves(graph: networkx.DiGraph, passes: Sequence[Keyed], positions: list[int]) -> list[str]:
    """The sort only ever holds a pass back until the last of what must precede it has run; the sentence names that one."""
    moves = []
    for place, index in enumerate(positions):
        if any(earlier > index for earlier in positions[:place]):
            cause = max(graph.predecessors(index), key=positions.index)
            how = "moved after" if cause > index else "moved along with"
            moves.append(f"{passes[index][0]} {how} {passes[cause][0]} ({graph.edges[cause, index]['reason']})")
    return moves
