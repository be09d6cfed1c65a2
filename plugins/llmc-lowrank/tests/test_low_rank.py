from pathlib import Path

import pytest
import torch
from llmc_lowrank.low_rank import LowRank

import llmc
from llmc.errors import PipelineError
from llmc.ir.weights import Stored
from llmc.pipeline.base import PassContext
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"
QUANTIZE = {"name": "quantize", "bits": 8}


@pytest.fixture(scope="module")
def before():
    """The bundled trained model, its norms raised and its projections merged."""
    return llmc.compile(MODEL, backend="eager").program


def run(program, **options):
    ctx = PassContext("low-rank")
    after = LowRank(**options).run(program, ctx)
    after.verify()
    return after, ctx


def difference(a, b):
    ids = torch.arange(3, 60)
    with torch.no_grad():
        x, y = (program.as_module()(ids)["logits"] for program in (a, b))
    return float((x - y).norm() / y.norm())


def test_linears_become_two_where_that_takes_fewer_bytes(before):
    after, ctx = run(before, energy=0.8)
    added = len(after.find("linear")) - len(before.find("linear"))
    assert added == len(ctx.matches) > 0 and after.weight_bytes() < before.weight_bytes()
    assert len(ctx.notes) == added and all("instead of" in note for note in ctx.notes)
    assert len(after.blocks.layers) == len(before.blocks.layers)


def test_the_more_energy_the_closer(before):
    errors = [difference(run(before, energy=energy)[0], before) for energy in (0.5, 0.8, 0.95)]
    assert errors[0] > errors[1] > errors[2] > 0 and errors[2] < 0.5


@pytest.mark.parametrize("budget", [0.4, 0.8])
def test_budget_bounds_the_elements_of_all_matrices_together(before, budget):
    after, ctx = run(before, budget=budget, skip=("lm_head.*",) if "lm_head.weight" in before.weights else ())
    touched = {name.rsplit(".", 1)[0] for name in after.weights if name.endswith((".left", ".right"))}
    sizes = [after.weights[f"{name}.{part}"] for name in touched for part in ("left", "right")]
    now = sum(weight.shape[0] * weight.shape[1] for weight in sizes)
    assert ctx.matches and now <= sum(before.weights[n].shape[0] * before.weights[n].shape[1] for n in touched)
    assert after.weight_bytes() < before.weight_bytes()


def test_all_energy_takes_no_fewer_bytes_and_changes_nothing(before):
    after, ctx = run(before, energy=1.0)
    assert after is before and any("which is no less than" in reason for _, reason in ctx.refusals)


def test_a_table_that_an_embedding_reads_is_left_alone(before):
    _, ctx = run(before)
    assert any("is also read by 'embedding" in reason for _, reason in ctx.refusals)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_with_their_module(before, bad):
    editor = before.edit("spoil")
    name = next(str(node.args[1].target) for node in before.find("linear") if "up_proj" in str(node.args[1].target))
    values = before.weights[name].evaluate().clone()
    values[1, 2] = bad
    editor.weights[name] = Stored(values)
    with pytest.raises(PipelineError, match=r"up_proj' of module 'model.layers.0.mlp' holds NaN"):
        run(editor.finish())


def test_what_is_quantized_is_left_alone(before):
    program = resolve([QUANTIZE], [], default()).run(before, default(), []).program
    after, ctx = run(program)
    assert after is program and all("int8 already" in reason for _, reason in ctx.refusals)


def test_skipped_weights_are_left_alone_and_a_pattern_must_match(before):
    after, ctx = run(before, energy=0.5, skip=("*.mlp.*",))
    assert not any("mlp" in name and name.endswith(".left") for name in after.weights) and ctx.matches
    with pytest.raises(PipelineError, match="'nothing' matches no weight"):
        run(before, skip=("nothing",))


def test_energy_and_budget_exclude_each_other():
    with pytest.raises(PipelineError, match="not both"):
        LowRank(energy=0.9, budget=0.5)


def test_pass_runs_before_quantization_and_both_factors_are_quantized(before):
    result = resolve([QUANTIZE], [LowRank(energy=0.6)], default()).run(before, default(), [])
    assert [record.key for record in result.records] == ["low-rank", "quantize"]
    factors = [weight for name, weight in result.program.weights.items() if name.endswith((".left", ".right"))]
    assert factors and all(str(weight.format) == "int8" for weight in factors)
