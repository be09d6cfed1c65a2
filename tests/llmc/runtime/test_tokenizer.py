"""Text, ids, and pieces of text."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.errors import ArtifactError
from llmc.runtime.tokenizer import StreamDecoder, Tokenizer

FOLDER = Path(__file__).parents[3] / "examples" / "tiny_lm" / "model"
TOKENIZER = Tokenizer(FOLDER)


def pieces(tokenizer: Tokenizer, ids: list[int], context: list[int] | None = None) -> list[str]:
    decoder = StreamDecoder(tokenizer, context or [])
    return [*(decoder.push(token) for token in ids), decoder.flush()]


def edited(folder: Path, name: str, change) -> Path:
    """A copy of the tokenizer in which one file's JSON was changed."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FOLDER / file, folder)
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))
    return folder


@settings(deadline=None)
@given(st.text())
def test_encode_then_decode_is_the_text(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(deadline=None)
@given(st.text(), st.text())
def test_pieces_are_the_text_and_no_piece_ends_inside_a_character(prompt, text):
    ids = TOKENIZER.encode(text)
    found = pieces(TOKENIZER, ids, TOKENIZER.encode(prompt))
    assert "".join(found) == text
    assert all("\ufffd" not in piece for piece in found) or "\ufffd" in text


@settings(deadline=None)
@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1)))
def test_pieces_of_any_ids_are_what_decode_gives(ids):
    assert "".join(pieces(TOKENIZER, ids)) == TOKENIZER.decode(ids)


def test_multi_byte_character_comes_whole_with_its_last_token():
    ids = TOKENIZER.encode("🦙")
    assert len(ids) > 1
    assert pieces(TOKENIZER, ids) == [*[""] * (len(ids) - 1), "🦙", ""]


def test_incomplete_character_is_flushed_as_a_replacement():
    ids = TOKENIZER.encode("🦙")[:-1]
    assert "".join(pieces(TOKENIZER, ids)) == "\ufffd"


def test_special_tokens_have_no_text():
    assert TOKENIZER.bos_id == 0
    assert TOKENIZER.eos_ids == (0,)
    ids = [*TOKENIZER.encode("a b"), 0, *TOKENIZER.encode(" c")]
    assert TOKENIZER.decode(ids) == "".join(pieces(TOKENIZER, ids)) == "a b c"


def test_leading_space_is_kept_when_the_decoder_drops_it_at_the_start(tmp_path):
    strip = {"type": "Sequence", "decoders": [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]}  # fmt: skip
    tokenizer = Tokenizer(edited(tmp_path, "tokenizer.json", lambda data: data.update(decoder=strip)))
    first, second = tokenizer.encode(" one"), tokenizer.encode(" two")
    assert tokenizer.decode(second) == "two"
    assert "".join(pieces(tokenizer, second, first)) == " two"


@pytest.mark.parametrize(("add_bos", "expected"), [(True, [0]), (False, [])])
def test_add_bos_token_of_the_config_decides(tmp_path, add_bos, expected):
    tokenizer = Tokenizer(edited(tmp_path, "tokenizer_config.json", lambda data: data.update(add_bos_token=add_bos)))
    assert tokenizer.encode("x") == [*expected, *TOKENIZER.encode("x")]


def test_special_token_may_be_written_as_an_object(tmp_path):
    token = {"content": "<|endoftext|>", "special": True}
    tokenizer = Tokenizer(edited(tmp_path, "tokenizer_config.json", lambda data: data.update(eos_token=token)))
    assert tokenizer.eos_ids == (0,)


def test_truncation_and_padding_of_the_file_are_off(tmp_path):
    def change(data):
        data["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}

    tokenizer = Tokenizer(edited(tmp_path, "tokenizer.json", change))
    assert len(tokenizer.encode("a long text of many tokens")) > 2


def test_saved_tokenizer_is_the_same(tmp_path):
    TOKENIZER.save(tmp_path / "copy")
    copy = Tokenizer(tmp_path / "copy")
    text = "def f(x):\n    return x  # 🦙"
    assert copy.encode(text) == TOKENIZER.encode(text)
    assert (copy.bos_id, copy.eos_ids) == (TOKENIZER.bos_id, TOKENIZER.eos_ids)


def test_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: there is no such file"):
        Tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_malformed_file_is_named(tmp_path, name, content):
    edited(tmp_path, name, lambda data: None)
    (tmp_path / name).write_text(content)
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        Tokenizer(tmp_path)
