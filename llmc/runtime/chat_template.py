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
"""Characters that a conversation may become, and a text in a template, or elements of a list with those inside of it."""


def plain(messages: Sequence[Message]) -> str:
    """`User: ...` and `Assistant: ...`, a turn a paragraph, the last one left open."""
    turns = [f"{NAMES[message['role']]}: {message['content'].strip()}\n" for message in messages]
    return "".join([*turns, f"{NAMES['assistant']}:"])


class ChatTemplate:
    """A template in the form of the `transformers` library: Jinja with `messages`, the special tokens, `raise_exception`.

    Templates come with models, so they are not trusted: they run in Jinja's immutable sandbox, without loaders, and may
    make no text or list too large (`llmc.runtime.chat_sandbox`). Raises InputError if it is malformed.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        from jinja2 import TemplateError

        from llmc.runtime.chat_sandbox import Sandbox, guarded

        environment = Sandbox()
        environment.filters["tojson"] = guarded("tojson", _to_json)
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


def _refuse(message: str) -> None:
    raise InputError(str(message))


def _to_json(value: Any, indent: int | None = None, **ignored: Any) -> str:
    """Without Jinja's escapes for HTML, as the `transformers` library has it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)
