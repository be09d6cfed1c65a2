"""Where the time goes: parts that add up to the step, and to the costs of the program."""

from pathlib import Path

import pytest

import llmc
from llmc.cli.profile import share
from llmc.errors import InputError, UnsupportedError
from llmc.evaluate.limits import decode_work, prefill_work
from llmc.evaluate.profile import OUTSIDE, WAITING, by_layer, by_module, by_op, profile
from llmc.evaluate.work import KINDS, Step, works

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"
PROMPT = 40


@pytest.fixture(scope="module")
def model():
    return llmc.compile(MODEL, recipe="int8", backend="cpu", threads=2)


@pytest.fixture(scope="module")
def phases(model):
    return {phase.name: phase for phase in profile(model, PROMPT, new_tokens=6, runs=2)}


def test_parts_add_up_to_the_phase(phases):
    for phase in phases.values():
        assert sum(part.seconds for part in phase.parts) == pytest.approx(phase.seconds)
        assert all(part.slowest >= part.seconds for part in phase.parts)
        assert [part.op for part in phase.parts].count(OUTSIDE) == 1
        inside = sum(part.seconds for part in phase.parts if part.op != OUTSIDE)
        assert 0 < inside < phase.seconds and phase.plain > 0


def test_bytes_and_flops_are_those_of_the_program(model, phases):
    block_bytes = model.executable.block_bytes
    expected = {
        "prefill": prefill_work(model.program, block_bytes, PROMPT),
        "decode": decode_work(model.program, block_bytes, PROMPT + 1),
    }
    for name, phase in phases.items():
        assert phase.work.bytes == pytest.approx(expected[name].bytes)
        assert phase.work.operations == pytest.approx(expected[name].operations)
        assert sum(part.work.bytes for part in phase.parts) == pytest.approx(phase.work.bytes)
        for kind in KINDS:
            assert sum(part.work.operations[kind] for part in phase.parts) == pytest.approx(phase.work.operations[kind])


def test_the_head_of_a_long_prompt_is_read_in_its_last_step_alone(model):
    whole, chunks = Step(600), [Step(512, rows=0), Step(88, past=512)]
    [head] = model.program.results
    assert head.target.name == "linear"
    found = [sum(dict(works(model.program, 0, step))[head].bytes for step in steps) for steps in ([whole], chunks)]
    assert found[0] == found[1] > 0


def test_no_more_of_a_table_is_read_than_it_has(model):
    [node] = model.program.find("embedding")
    table = model.program.weight(node.args[1])
    one, some, many = (dict(works(model.program, 0, Step(tokens)))[node].bytes for tokens in (1, 100, 50_000))
    assert one == pytest.approx(table.bytes / table.shape[0], rel=0.01)
    assert 90 * one < some < 100 * one and table.bytes * 0.99 < many <= table.bytes


def test_a_share_beyond_the_limit_is_said_to_be_of_a_cache():
    assert (share(1.0, 2.0), share(2.0, 2.0), share(3.0, 2.0), share(0.0, 2.0)) == ("50%", "100%", "cached", "")


def test_tables_show_the_same_time_by_op_by_module_and_by_layer(phases):
    for phase in phases.values():
        for table in (by_op, by_module, by_layer):
            rows = table(phase)
            assert sum(row.seconds for row in rows) == pytest.approx(phase.seconds)
            assert len({row.key for row in rows}) == len(rows)
    ops = {row.key for row in by_op(phases["decode"])}
    assert {("linear", "linear_w8a8"), ("linear", "quantize_rows"), ("attention", "attention"), (WAITING, "")} <= ops
    modules = {row.key for row in by_module(phases["decode"])}
    assert {("model.layers.*.mlp.down_proj", "linear_w8a8"), ("lm_head", "linear_w8a8"), ("", OUTSIDE)} <= modules
    assert [row.key for row in by_layer(phases["decode"])] == [("",), ("0",), ("1",), ("2",)]  # the last is not like the others


def test_backend_that_cannot_tell_says_so():
    model = llmc.compile(MODEL, recipe="int8", backend="eager", threads=1)
    with pytest.raises(UnsupportedError, match="'eager' cannot tell where the time of a step goes"):
        profile(model, PROMPT, new_tokens=1, runs=1)


@pytest.mark.parametrize(("prompt", "new", "runs"), [(0, 1, 1), (1, 0, 1), (1, 1, 0), (512, 1, 1)])
def test_profile_of_nothing_or_too_much_is_refused(model, prompt, new, runs):
    with pytest.raises(InputError):
        profile(model, prompt, new, runs)
