"""Text to token ids and back, and back piece by piece while a model generates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmc.errors import ArtifactError, InputError

TOKENIZER_FILE, CONFIG_FILE, TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
INCOMPLETE = "\ufffd"
"""What bytes that are not (yet) a character decode to."""


class Tokenizer:
    """The tokenizer of a folder with `tokenizer.json` and, if it has one, `tokenizer_config.json`.

    Padding and truncation that the file asks for are switched off. Raises ArtifactError if a file is missing or malformed.
    """

    def __init__(self, folder: Path | str) -> None:
        from tokenizers import Tokenizer as Library

        path = Path(folder) / TOKENIZER_FILE
        if not path.is_file():
            raise ArtifactError(f"{path}: there is no such file")
        try:
            self._library = Library.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ArtifactError(f"{path}: cannot read the tokenizer: {error}") from error
        self._library.no_padding()
        self._library.no_truncation()
        self._cutting: dict[int, Any] = {}
        self._config = _read_config(Path(folder) / CONFIG_FILE)
        if (Path(folder) / TEMPLATE_FILE).is_file():
            self._config["chat_template"] = _read_template(Path(folder) / TEMPLATE_FILE)
        self.bos_id = self._special("bos_token")
        eos = self._special("eos_token")
        self.eos_ids: tuple[int, ...] = () if eos is None else (eos,)

    @property
    def vocab_size(self) -> int:
        """Ids are below this number."""
        return self._library.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str, rendered: bool = False) -> list[int]:
        """Token ids of a text, with what the tokenizer puts around it; `add_bos_token` of its config has the last word.

        rendered: the text comes from a chat template and has such tokens already, so nothing is put around it.
        Raises InputError for a text with surrogates, which Python makes of bytes that are no UTF-8.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"this text is not UTF-8: {error}") from error
        if rendered:
            return list(self._library.encode(text, add_special_tokens=False).ids)
        add_bos = self._config.get("add_bos_token")
        ids = list(self._library.encode(text, add_special_tokens=add_bos is not False).ids)
        if add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    @property
    def chat_template(self) -> str | None:
        """The Jinja template that makes a text of a conversation: of several, the one named "default"."""
        found = self._config.get("chat_template")
        if isinstance(found, list):
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found = named.get("default")
        return found if isinstance(found, str) else None

    @property
    def special_tokens(self) -> dict[str, str]:
        """The texts of special tokens by the names that chat templates use: `bos_token`, `eos_token`, ..."""
        tokens = {name: value for name, value in self._config.items() if name.endswith("_token")}
        texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in tokens.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    def encode_pair(self, text: str, pair: str | None = None, limit: int | None = None) -> tuple[list[int], list[int]]:
        """Token ids of a text, or of two, with what the tokenizer puts around them, and for each which of the texts it is of.

        limit: cut to so many tokens, where the tokenizer cuts.
        """
        library = self._library
        if limit is not None:
            if limit not in self._cutting:
                self._cutting[limit] = type(library).from_str(library.to_str())
                self._cutting[limit].enable_truncation(limit)
            library = self._cutting[limit]
        found = library.encode(text, pair)
        return list(found.ids), list(found.type_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; special tokens are left out, bytes that are no character become U+FFFD."""
        return self._library.decode(list(ids), skip_special_tokens=True)

    def save(self, folder: Path) -> None:
        """Write both files into a folder, which is made if needed."""
        folder.mkdir(parents=True, exist_ok=True)
        self._library.save(str(folder / TOKENIZER_FILE))
        (folder / CONFIG_FILE).write_text(json.dumps(self._config, indent=1) + "\n")

    def _special(self, name: str) -> int | None:
        token = self._config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        return self._library.token_to_id(content) if isinstance(content, str) else None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: cannot read the tokenizer's config: {error}") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path}: the tokenizer's config should be an object")
    return config


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot read the chat template: {error}") from error


class StreamDecoder:
    """Decodes ids one by one into pieces of text that, put together, are the text.

    A piece is the difference of two decodings that share a few earlier ids, because many tokenizers write a token
    differently at the start of a text (they drop its leading space). It is held back while it ends in an incomplete
    character. `context` is what came before, the prompt.
    """

    CONTEXT = 8  # ids of the prompt that are enough to know what stands before the first piece

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        before = list(context[-self.CONTEXT :])
        self._before = [] if tokenizer.decode(before).endswith(INCOMPLETE) else before
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that this id completes, often empty."""
        self._held.append(token)
        piece = self._piece()
        if not piece or piece.endswith(INCOMPLETE):
            return ""
        self._before, self._held = self._held, []
        return piece

    def flush(self) -> str:
        """What is still held back: bytes that never became a character, as U+FFFD."""
        piece = self._piece()
        self._held = []
        return piece

    def _piece(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode([*self._before, *self._held])[len(before) :]
