"""Whole models in every form of a step, and what a context refuses."""

import dataclasses

import numpy as np
import pytest
from xla_cases import TINY_LM, Runner, captured, chunked, error, library_model, lowered, random_ids, reference

import llmc
from llmc.errors import InputError
from llmc.ir.segment import segment
from llmc.runtime.sequences import Sequences


@pytest.fixture(scope="module", params=["rope", "learned"])
def model(request):
    """A program and its executable."""
    program = captured(library_model(request.param))
    return program, lowered(program)


@pytest.mark.parametrize("size", [1000, 1, 13], ids=["prefill", "decode", "chunked"])
def test_model_agrees_with_the_reference(model, size):
    program, executable = model
    ids = random_ids(75, vocab=101)
    assert error(chunked(executable, ids, size), reference(program, ids)) <= 1e-5


def test_prompts_of_different_lengths_meet_in_a_step(model):
    program, executable = model
    prompts = [random_ids(count, count, 101) for count in (5, 33, 1, 70)]
    runner = Runner(executable)
    names = [runner.sequences.create() for _ in prompts]
    found = [[] for _ in prompts]
    for turn in range(70):
        sizes = (1, 7, 3, 40)
        work = [(i, p[turn * s : (turn + 1) * s]) for i, (p, s) in enumerate(zip(prompts, sizes, strict=True))]
        work = [(i, ids) for i, ids in work if ids]
        if not work:
            break
        rows = runner.step([(names[i], ids) for i, ids in work])
        for i, ids in work:
            found[i].append(rows[: len(ids)])
            rows = rows[len(ids) :]
    for values, prompt in zip(found, prompts, strict=True):
        assert error(np.concatenate(values), reference(program, prompt)) <= 1e-5


def test_fork_and_truncation_leave_the_other_sequence_alone(model):
    program, executable = model
    start, left, right = (random_ids(count, count, 101) for count in (40, 9, 11))
    runner = Runner(executable)
    first = runner.sequences.create()
    runner.step([(first, start)])
    second = runner.sequences.fork(first)
    rows = runner.step([(first, left), (second, right)])
    assert error(rows[:9], reference(program, start + left)[40:]) <= 1e-5
    assert error(rows[9:], reference(program, start + right)[40:]) <= 1e-5
    runner.sequences.truncate(first, 37)
    assert error(runner.step([(first, right)]), reference(program, start[:37] + right)[37:]) <= 1e-5


def test_rows_come_in_the_order_asked_for_and_may_be_none(model):
    program, executable = model
    ids = random_ids(12, vocab=101)
    sequences = Sequences(8)
    batch = sequences.batch([(sequences.create(), ids)], ["all"])
    for rows in ([7, 2, 7, 11], [], [*range(12)] * 4):
        chosen = np.array(rows, np.int32)
        found = executable.context(8).step(dataclasses.replace(batch, out_rows=chosen))["logits"]
        assert found.shape == (len(rows), 101) and found.dtype == np.float32
        assert error(found, reference(program, ids)[chosen]) <= 1e-5


def test_refused_step_changes_nothing_and_a_closed_context_refuses(model):
    program, executable = model
    ids = random_ids(40, vocab=101)
    runner = Runner(executable)
    sequence = runner.sequences.create()
    runner.step([(sequence, ids[:35])])
    batch = runner.sequences.batch([(sequence, ids[35:])], ["all"])
    for wrong in ({"inputs": {"input_ids": np.full(5, 101)}}, {"copies": np.array([[0, 64]], np.int32)}):
        with pytest.raises(InputError):
            runner.context.step(dataclasses.replace(batch, **wrong))
    assert error(runner.context.step(batch)["logits"], reference(program, ids)[35:]) <= 1e-5
    runner.context.close()
    runner.context.close()
    with pytest.raises(InputError, match="closed"):
        runner.context.step(batch)


def test_segments_give_what_the_whole_gives():
    program = captured(library_model("rope", layers=4))
    layers = program.blocks.layers
    border = layers[1][next(iter(program.blocks.carried))]
    first = segment(program, {}, {"hidden": border})
    second = segment(program, {"hidden": border}, {"logits": program.results[0]})
    ids = random_ids(45, vocab=101)
    sequences = Sequences(8)
    batch = sequences.batch([(sequences.create(), ids)], ["all"])
    hidden = lowered(first).context(8).step(batch)["hidden"]
    assert hidden.shape == (45, 72)
    found = lowered(second).context(8).step(dataclasses.replace(batch, inputs={"hidden": hidden}))["logits"]
    assert error(found, reference(program, ids)) <= 1e-5


def test_cache_too_large_for_the_machine_is_a_memory_error(model):
    with pytest.raises(MemoryError, match="GB"):
        model[1].context(2**31)


@pytest.mark.parametrize("recipe", ["none", "int8"])
def test_bundled_model_writes_the_text_of_eager(recipe):
    texts = {}
    for backend in ("eager", "xla"):
        compiled = llmc.compile(TINY_LM, backend=backend, recipe=recipe)
        results = compiled.generate(["Once upon a time", "The ship"], max_new_tokens=24)
        texts[backend] = [result.text for result in results]
    assert texts["xla"] == texts["eager"]


def test_saved_model_is_loaded_with_its_sources(tmp_path):
    compiled = llmc.compile(TINY_LM, backend="xla")
    assert compiled.source("stablehlo").startswith("module @jit_step")
    assert compiled.source("hlo").startswith("HloModule jit_step") and "input_output_alias" in compiled.source("hlo")
    compiled.save(tmp_path / "model")
    again = llmc.load(tmp_path / "model")
    assert again.generate([5, 6, 7], max_new_tokens=5).tokens == compiled.generate([5, 6, 7], max_new_tokens=5).tokens
