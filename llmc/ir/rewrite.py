"""A rewrite is data: a pattern, what to build in its place, and what must hold besides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch.fx import Node

from llmc.errors import VerificationError
from llmc.ir.edit import Editor
from llmc.ir.pattern import Match, Pattern, matches
from llmc.ir.program import Program, origin_of
from llmc.ir.types import Origin


class Report(Protocol):
    """Who is told what a rewrite did; `llmc.pipeline.base.PassContext` is one."""

    name: str

    def matched(self, origin: Origin) -> None:
        """The rule was applied to code of this origin."""

    def refused(self, origin: Origin, reason: str) -> None:
        """The pattern matched, but the rule could not be applied."""


@dataclass(frozen=True)
class Rule:
    """`build(editor, match)` gives the node that replaces the root; `check(match)` says why it must not, or None.

    A VerificationError out of `build`, or a result of another type than the root, refuses the match as `check` does; the nodes
    that `build` made are removed then, so that it must not keep them for later.
    """

    pattern: Pattern
    build: Callable[[Editor, Match], Node]
    check: Callable[[Match], str | None] = lambda match: None


def rewrite(program: Program, rule: Rule, report: Report | None = None) -> Program:
    """Apply a rule to every place where it matches, without overlaps, in one copy of the graph.

    If it matches nowhere, the program itself is returned.
    """
    editor = program.edit(report.name if report else "")
    changed = False
    for node in editor.nodes:
        if not node.users:  # part of an earlier match
            continue
        reason = None
        for match in matches(rule.pattern, node):
            origin = Origin.merge([origin_of(inner) for inner in match.nodes])
            reason = rule.check(match) or _apply(editor, rule, match, origin)
            if reason is None:
                changed = True
                if report:
                    report.matched(origin)
                break
        if reason is not None and report:
            report.refused(origin_of(node), reason)
    return editor.finish() if changed else program


def _apply(editor: Editor, rule: Rule, match: Match, origin: Origin) -> str | None:
    """Replace the root and remove what only it needed, or say why that cannot be."""
    try:
        with editor.before(match.root, origin), editor.attempt():
            editor.replace(match.root, rule.build(editor, match))
    except VerificationError as error:
        return str(error)
    for inner in match.nodes:
        if not inner.users:
            editor.graph.erase_node(inner)
    return None
