"""From a conversation to the text that a model reads: its own chat template, or plain turns where it has none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from llmc.errors import InputError

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`."""

NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}

PLAIN_STOP = ("\nUser:", "\nSystem:")
"""What ends a reply in plain turns."""

LARGEST = 1 << 20
"""Characters that a conversation may become, and that a template may make of a text by repeating it."""


def plain(messages: Sequence[Message]) -> str:
    """`User: ...` and `Assistant: ...`, a turn a paragraph, the last one left open."""
    turns = [f"{NAMES[message['role']]}: {message['content'].strip()}\n" for message in messages]
    return "".join([*turns, f"{NAMES['assistant']}:"])


class ChatTemplate:
    """A template in the form of the `transformers` library: Jinja with `messages`, the special tokens, `raise_exception`.

    Templates come with models, so they are not trusted: they run in Jinja's immutable sandbox, without loaders, and may not
    blow a text up by repeating it. Raises InputError if it is malformed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Environment(ImmutableSandboxedEnvironment):
            """The sandbox, with a bound on products."""

            intercepted_binops = frozenset({"*", "**"})

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                if operator == "**" or any(isinstance(x, str | list | tuple) and _more(x, left, right) for x in (left, right)):
                    raise OverflowError("a product is too large")
                return super().call_binop(context, operator, left, right)

        class Generation(Extension):
            """`{% generation %}`, by which a template marks replies for training: here only what is inside of it."""

            tags = {"generation"}

            def parse(self, parser: Any) -> Any:
                next(parser.stream)
                return parser.parse_statements(("name:endgeneration",), drop_needle=True)

        environment = Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.now().strftime(form))
        self._special = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except (TemplateError, RecursionError) as error:
            raise InputError(f"the model's chat template is malformed: {error}") from error

    def render(self, messages: Sequence[Message]) -> str:
        """The text of a conversation up to where the assistant's next reply begins. Raises InputError if the template fails."""
        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=True, tools=None, **self._special)
        except Exception as error:  # the template may be anybody's
            reason = str(error) or type(error).__name__
            raise InputError(f"the model's chat template refuses this conversation: {reason}") from error
        if len(text) > LARGEST:
            raise InputError(f"the model's chat template makes {len(text)} characters of this conversation; at most {LARGEST}")
        return text


def _more(text: Any, *factors: Any) -> bool:
    """Whether repeating a text gives more than is allowed."""
    times = max((factor for factor in factors if isinstance(factor, int)), default=0)
    return len(text) * times > LARGEST


def _refuse(message: str) -> None:
    raise InputError(str(message))


def _to_json(value: Any, indent: int | None = None, **ignored: Any) -> str:
    """Without Jinja's escapes for HTML, as the `transformers` library has it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
