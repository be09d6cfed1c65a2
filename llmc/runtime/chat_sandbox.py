"""Where chat templates run: Jinja's immutable sandbox, in which no text, list or nest of lists becomes larger than is allowed.

A template that doubles a text forty times is a line long, so what makes texts of others is looked at before it is done.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import nodes, pass_environment
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from llmc.runtime.chat_template import LARGEST

CONCATENATED = "concatenated"
WIDE = re.compile(r"\d{6}")
"""A width, or a precision, of a field of a format that is too large."""

PADDING = ("center", "ljust", "rjust", "zfill", "expandtabs", "indent", "wordwrap", "batch", "slice", "tojson")
"""Methods and filters that fill up to a number, or by it for each line."""


class Generation(Extension):
    """`{% generation %}`, by which a template marks replies for training: here only what is inside of it."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Concatenations(NodeTransformer):
    """`a ~ b` becomes a filter, as it is no operator that a sandbox is asked about."""

    def visit_Concat(self, node: Any) -> Any:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), CONCATENATED, [], [], None, None, lineno=node.lineno)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of a template. Raises OverflowError for what would be too large."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self) -> None:
        extensions: list[Any] = ["jinja2.ext.loopcontrols", Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=bounded)
        self.filters = {name: guarded(name, each) for name, each in self.filters.items()}
        self.filters |= {"join": join, CONCATENATED: joined}

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:  # of what a template, a macro or a block gives
        return joined(pieces)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            refuse("a power")
        if operator == "*":
            times = max((x for x in (left, right) if isinstance(x, int)), default=0)
            within(max(length(left), length(right)) * times, "a product")
        if operator == "+":
            within(length(left) + length(right), "a sum")
        if operator == "%" and isinstance(left, str):
            formatted(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, *given: Any, **named: Any) -> Any:  # type: ignore[override]
        """Methods of texts among all else that a template calls."""
        method = getattr(called, "__wrapped__", called)  # the sandbox has a `format` of its own around that of a text
        text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(text, str):
            if name == "join" and given:
                return join(self, given[0], text)
            check(name, (text, *given), named)
        return super().call(context, called, *given, **named)

    def _parse(self, *source: Any) -> Any:
        return Concatenations().visit(super()._parse(*source))


def guarded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is not run where it would make something too large."""

    @functools.wraps(made)  # which keeps what tells Jinja to pass its environment first
    def run(*given: Any, **named: Any) -> Any:
        check(name, given[1:] if hasattr(made, "jinja_pass_arg") else given, named)
        return made(*given, **named)

    return run


def check(name: str, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Refuse a method or filter of these arguments, of which the first is what it is of."""
    arguments = (*given, *named.values())
    for value in arguments:
        bounded(value)
    texts = [value for value in arguments if isinstance(value, str)]
    if name == "replace" and len(texts) > 2:
        text, old, new = texts[:3]
        within(len(text) + (text.count(old) if old else len(text) + 1) * len(new), "'replace'")
    if name in ("format", "format_map"):
        formatted(texts[0] if texts else "", arguments[1:])
    if name in PADDING:
        lines = 1 + max((text.count("\n") + text.count("\t") for text in texts), default=0)
        numbers = [abs(value) for value in arguments[1:] if isinstance(value, int)]
        within(lines * max(numbers, default=0), f"'{name}'")


def formatted(form: str, values: Any) -> None:
    """Refuse a format that makes too much of values, or whose fields are too wide."""
    if WIDE.search(form) or any(isinstance(value, int) and "*" in form and value > LARGEST for value in flat(values)):
        refuse("a field of a format")
    within(len(form) + size(values) * (1 + form.count("%") + form.count("{")), "a format")


def flat(values: Any) -> Iterator[Any]:
    """The elements of a tuple, or the value itself."""
    yield from values if isinstance(values, tuple) else (values,)


@pass_environment
def join(environment: Any, values: Any, d: str = "", attribute: Any = None) -> str:
    """As Jinja's filter of that name."""
    picked = values if attribute is None else map(make_attrgetter(environment, attribute), values)

    def pieces() -> Iterator[Any]:
        for index, value in enumerate(picked):
            if index:
                yield d
            yield value

    return joined(pieces())


def joined(pieces: Iterable[Any]) -> str:
    """All pieces, one after the other."""
    found, count = [], 0
    for piece in pieces:
        found.append(str(bounded(piece)))
        count += len(found[-1])
        within(count, "a text")
    return "".join(found)


def bounded(value: Any) -> Any:
    """The value, if with all that is in it it is not too large."""
    if isinstance(value, str | list | tuple | dict):
        within(size(value), "a value")
    return value


def size(value: Any) -> int:
    """Characters and elements of a value and all that is in it, as often as they are there; not counted on beyond the bound."""
    count, unread = 0, [value]
    while unread and count <= LARGEST:
        each = unread.pop()
        count += 1 + length(each)
        if isinstance(each, list | tuple | dict):
            unread += [*each, *each.values()] if isinstance(each, dict) else each
    return count


def length(value: Any) -> int:
    """Of a text or a list."""
    return len(value) if isinstance(value, str | list | tuple) else 0


def within(count: int, what: str) -> None:
    """Refuse more than is allowed."""
    if count > LARGEST:
        refuse(what)


def refuse(what: str) -> None:
    raise OverflowError(f"{what} in it is too large")
