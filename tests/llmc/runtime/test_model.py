"""A compiled model around a toy executable: calls, generation, what it tells of itself, contexts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from llmc.errors import ArtifactError, InputError
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.weights import Stored
from llmc.pipeline.record import PassRecord
from llmc.runtime.contract import InputSpec
from llmc.runtime.generate import Generator
from llmc.runtime.generation import GenerationOptions, GenerationResult
from llmc.runtime.model import CompiledModel, ModelInfo
from llmc.runtime.tokenizer import Tokenizer

TOKENIZER = Tokenizer(Path(__file__).parents[3] / "examples" / "tiny_lm" / "model")
INFO = ModelInfo("toy", TOKENIZER.vocab_size, 2048, eos_ids=(0,), recipe="int4", backend="fake")
REFUSED = [("layers[0].up", "too narrow"), ("layers[1].up", "too narrow")]
RECORD = PassRecord("fuse", 0.25, 3, REFUSED, ["merged two"], 9, 8, 2_000_000, 1_000_000, 1.5e-7)


def small_program(output="logits"):
    editor = Editor()
    x = editor.op(ops.embedding, editor.input("input_ids"), editor.weight(Stored(torch.ones(7, 4)), "embed"))
    editor.outputs = (output,)
    editor.graph.output((editor.op(ops.select_rows, x),))
    return editor.finish()


@pytest.fixture
def make(toy):
    """A model and its executable."""

    def build(tokenizer=TOKENIZER, forced=None):
        executable = toy(INFO.vocab_size, forced)
        program = small_program()
        return CompiledModel(program, executable, INFO, tokenizer, [RECORD], {"fuse": program}), executable

    return build


def test_call_gives_every_row_of_ragged_sequences(make):
    model, executable = make()
    sequences = [[5, 6, 7], [9], [i % 50 for i in range(1100)], [4] * 70]
    found = model(sequences)
    for ids, logits in zip(sequences, found, strict=True):
        assert logits.shape == (len(ids), INFO.vocab_size)
        for row in (0, len(ids) // 2, len(ids) - 1):
            np.testing.assert_array_equal(logits[row], executable.logits(ids[: row + 1]))
    assert executable.contexts[0].steps == [512, 512, 150]
    for last, every in zip(model(sequences, rows="last"), found, strict=True):
        np.testing.assert_array_equal(last, every[-1:])


def test_call_with_many_sequences_keeps_only_those_of_one_step_in_the_cache(make):
    model, executable = make()
    model([[5] * 64] * 100, rows="last")
    assert len(executable.contexts[0].cache) == 16
    assert len(executable.contexts) == 1


@pytest.mark.parametrize(
    ("sequences", "rows", "message"),
    [([[]], "all", "empty"), ([[-1]], "all", "token id -1"), ([[1] * 2049], "all", "2049.*2048"), ([[1]], "first", "rows")],
)
def test_call_that_cannot_be_done_is_refused(make, sequences, rows, message):
    with pytest.raises(InputError, match=message):
        make()[0](sequences, rows=rows)


def test_no_sequences_give_no_rows(make):
    assert make()[0]([]) == []


def test_generate_takes_text_or_ids_and_gives_one_or_a_list(make):
    model, _ = make()
    ids = TOKENIZER.encode("hello")
    one = model.generate("hello", max_new_tokens=5)
    assert isinstance(one, GenerationResult)
    assert str(one) == one.text
    assert one.prompt == ids
    for same in (ids, np.array(ids), tuple(ids)):
        assert model.generate(same, max_new_tokens=5).tokens == one.tokens
    assert [r.tokens for r in model.generate(["hello", ids], max_new_tokens=5)] == [one.tokens] * 2
    assert model.generate([]) == []


def test_generate_uses_stop_and_eos(make):
    model, _ = make(forced={5: 6, 6: 0})
    assert model.generate([5]).finish_reason == "eos"
    assert model.generate([5], stop=TOKENIZER.decode([6])).finish_reason == "stop"
    assert model.generate([5], stop=[TOKENIZER.decode([6])]).text == ""


def test_stream_gives_the_pieces_of_the_text(make):
    model, _ = make()
    pieces = model.generate("hello", max_new_tokens=8, temperature=1.0, seed=4, stream=True)
    assert "".join(pieces) == model.generate("hello", max_new_tokens=8, temperature=1.0, seed=4).text


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["a", "b"], {"stream": True}, "stream takes one prompt"),
        ("a", {"temperature": -1}, "temperature"),
        ("a", {"stop": 5}, "stop"),
        (None, {}, "prompts must be"),
        (["a", 3], {}, "prompt 1 should be"),
    ],
)
def test_generate_names_the_argument_that_cannot_be_used(make, prompts, options, message):
    with pytest.raises(InputError, match=message):
        make()[0].generate(prompts, **options)


def test_text_for_a_model_without_tokenizer_is_refused(make):
    with pytest.raises(InputError, match="no tokenizer"):
        make(tokenizer=None)[0].generate("hello")


def test_generation_without_logits_is_refused(toy):
    executable = toy()
    executable.output = "hidden"
    model = CompiledModel(small_program("hidden"), executable, INFO)
    with pytest.raises(InputError, match="this model gives hidden"):
        model.generate([5])


def test_context_is_kept_and_grown(make):
    model, executable = make()
    model.generate([5], max_new_tokens=40)
    model.generate([5], max_new_tokens=3)
    assert [len(context.cache) for context in executable.contexts] == [2]
    model.generate([5] * 100, max_new_tokens=3)
    model([[5] * 100])
    assert [len(context.cache) for context in executable.contexts] == [2, 4]


def test_call_during_a_stream_does_not_disturb_it(make):
    model, executable = make()
    expected = model.generate([5], max_new_tokens=20).text
    stream = model.generate([5], max_new_tokens=20, stream=True)
    first = next(stream)
    model.generate([7] * 40, max_new_tokens=20)
    assert first + "".join(stream) == expected
    assert len(executable.contexts) == 2


def test_abandoned_stream_gives_its_context_back(make):
    model, executable = make()
    stream = model.generate([5], max_new_tokens=20, stream=True)
    next(stream)
    stream.close()
    model.generate([5], max_new_tokens=20)
    assert len(executable.contexts) == 1


def test_callback_that_raises_gives_the_context_back(make):
    model, executable = make()
    generator = Generator(model._contexts.lease, INFO.vocab_size, INFO.max_context, TOKENIZER)
    with pytest.raises(ZeroDivisionError) as caught:
        generator.generate([[5]], GenerationOptions(20), on_token=lambda index, token: 1 / 0)
    model.generate([5], max_new_tokens=20)  # while the traceback still holds on to the generation
    assert len(executable.contexts) == 1
    del caught


def test_context_whose_step_failed_is_not_used_again(make):
    model, executable = make()
    executable.fails = [RuntimeError("device lost")]
    with pytest.raises(RuntimeError):
        model.generate([5], max_new_tokens=20)
    assert executable.contexts[0].closed
    assert model.generate([5], max_new_tokens=3).tokens
    assert len(executable.contexts) == 2


@pytest.mark.parametrize("threads", [0, -1, 40000])
def test_number_of_threads_that_cannot_be_is_refused(toy, threads):
    with pytest.raises(InputError, match="threads must be between 1 and 1024"):
        CompiledModel(small_program(), toy(), dataclasses.replace(INFO, threads=threads))


def test_output_of_all_tokens_is_cut_to_the_rows_asked_for(make):
    model, executable = make()
    executable.rows = "T"
    every, [last] = model([[5, 6, 7], [9]]), model([[5, 6, 7]], rows="last")
    np.testing.assert_array_equal(every[0][2], executable.logits([5, 6, 7]))
    np.testing.assert_array_equal(every[1][0], executable.logits([9]))
    np.testing.assert_array_equal(last, every[0][2:])
    tokens = model.generate([5, 6, 7], max_new_tokens=5).tokens
    executable.rows = "R"
    assert model.generate([5, 6, 7], max_new_tokens=5).tokens == tokens


def test_explain_tells_passes_refusals_notes_and_costs(make):
    text = make()[0].explain()
    for part in ("toy", "int4", "fuse", "1.5e-07", "merged two", "2.00 MB"):
        assert part in text
    assert "left alone layers[0].up, layers[1].up: too narrow" in text
    assert "cache a token      8 bytes" in text
    assert max(map(len, text.splitlines())) <= 110


def test_source_gives_the_main_file_or_a_named_one(make):
    model, _ = make()
    assert model.source() == "rows = hash(ids)\n"
    assert model.source("part/more.txt") == "more\n"
    with pytest.raises(InputError, match=r"toy\.py, part/more\.txt"):
        model.source("x")


def test_graph_gives_the_program_after_a_pass(make):
    model, _ = make()
    assert model.graph() is model.graph("fuse") is model.program
    with pytest.raises(InputError, match="fuse"):
        model.graph("prune")


@pytest.mark.parametrize(("field", "name"), [("vocab_size", "input_ids"), ("max_context", "position")])
def test_info_may_claim_no_more_than_the_program_has_tables_for(field, name):
    claimed = getattr(INFO, field)
    for fits in ({}, {name: InputSpec("int64")}, {name: InputSpec("int64", (), claimed)}):
        INFO.check(fits)
    with pytest.raises(ArtifactError, match=f"{field} is {claimed}, but the program has tables for {claimed - 1} only"):
        INFO.check({name: InputSpec("int64", (), claimed - 1)})


def test_info_survives_json():
    assert ModelInfo.from_json(INFO.to_json()) == INFO


@pytest.mark.parametrize(
    "change",
    [{"vocab_size": "7"}, {"vocab_size": 0}, {"max_context": None}, {"eos_ids": ["a"]}, {"unknown": 1}, {"versions": []}],
)
def test_malformed_info_names_the_field(change):
    with pytest.raises(ArtifactError, match=next(iter(change))):
        ModelInfo.from_json({**INFO.to_json(), **change})
