"""Pipelines: made, printed, sliced, run."""

import pytest

from llmc.errors import PipelineError, PluginError
from llmc.ir import ops
from llmc.ir.pattern import ANY
from llmc.ir.program import origin_of
from llmc.ir.rewrite import Rule
from llmc.pipeline.base import Pass
from llmc.pipeline.pipeline import Pipeline
from llmc.pipeline.recipe import resolve
from llmc.plugins.hooks import hookimpl
from llmc.plugins.registry import Entry


class Mine(Pass):
    """As short as a user's pass may be."""

    name = "mine"

    def run(self, program, ctx):
        rule = Rule(ops.silu(ANY.x), lambda editor, m: editor.op(ops.mul, m["x"], editor.op(ops.sigmoid, m["x"])))
        return program.rewrite(rule, ctx)


class Failing(Pass):
    """A pass with a mistake in it."""

    name = "failing"

    def run(self, program, ctx):
        return {}["missing"]


class Noting(Pass):
    """Changes nothing."""

    name = "noting"

    def run(self, program, ctx):
        ctx.note("seen")
        return program


def test_pipeline_takes_names_dicts_classes_and_instances(registry):
    pipeline = Pipeline.of(["expand-silu", {"name": "scale", "factor": 3}], [Mine, Mine()], registry)
    assert [step.key for step in pipeline] == ["expand-silu", "scale", "mine", "mine#2"]
    assert [step.asked for step in pipeline] == [False, False, True, True]
    assert pipeline[1].item.config.factor == 3


def test_pipeline_prints_as_a_table_with_options_and_moves(registry):
    late = type("Late", (Mine,), {"name": "late", "after": {"scale"}})
    text = str(Pipeline.of([late, {"name": "scale", "factor": 3}], ["expand-silu"], registry))
    assert text.splitlines() == [
        "#  pass         options",
        "1  scale        factor=3.0",
        "2  late",
        "3  expand-silu              asked for",
        "late moved after scale (scale must run before late)",
    ]


def test_slice_of_a_pipeline_is_a_pipeline(registry, program):
    pipeline = Pipeline.of(["expand-silu", "scale", Mine], [], registry)
    assert isinstance(pipeline[:2], Pipeline) and len(pipeline[:2]) == 2
    assert [record.key for record in pipeline[1:].run(program, registry).records] == ["scale", "mine"]


@pytest.mark.parametrize("spec", [7, {"factor": 2}, int, None])
def test_what_is_no_pass_is_refused(registry, spec):
    with pytest.raises(PipelineError, match="a pass is given by"):
        Pipeline.of([spec], [], registry)


def test_unknown_pass_is_refused(registry):
    with pytest.raises(PluginError, match="did you mean 'scale'"):
        Pipeline.of(["scales"], [], registry)


def test_class_registered_under_another_name_is_refused(registry):
    registry.register("passes", Entry("yours", Mine, "tests", "1"))
    with pytest.raises(PipelineError, match="'yours'"):
        Pipeline.of(["yours"], [], registry)


def test_run_rewrites_and_records_what_each_pass_did(registry, program):
    result = Pipeline.of(["expand-silu", "scale"], [], registry).run(program, registry)
    first, second = result.records
    assert (first.key, first.name, first.matched, first.refused) == ("expand-silu", "expand-silu", 1, [])
    assert (first.nodes_before, first.nodes_after) == (len(program.nodes), len(program.nodes) + 1)
    assert first.weight_bytes_before == first.weight_bytes_after == program.weight_bytes() and first.seconds > 0
    assert second.matched == 0 and second.notes == ["by 2.0"] and second.error is None
    assert result.snapshots["scale"] is result.program is result.snapshots["expand-silu"]
    assert origin_of(result.program.find("sigmoid")[0]).passes == ("expand-silu",)


def test_pass_asked_for_that_matches_nothing_is_an_error_with_its_refusals(registry, program):
    with pytest.raises(PipelineError, match=r"pass 'refuse' was asked for but matched nothing: layer: it is fine as it is"):
        Pipeline.of([], ["refuse"], registry).run(program, registry)


def test_pass_of_a_recipe_may_match_nothing(registry, program):
    result = Pipeline.of(["refuse"], [], registry).run(program, registry)
    assert result.program is program and result.records[0].refused == [("layer", "it is fine as it is")]


def test_copy_of_the_program_counts_as_nothing_matched(registry, program):
    copying = type("Copying", (Noting,), {"name": "copying", "run": lambda self, program, ctx: program.edit().finish()})
    with pytest.raises(PipelineError, match="matched nothing"):
        Pipeline.of([], [copying], registry).run(program, registry)


def test_exception_of_a_pass_names_it_and_keeps_the_cause(registry, program):
    with pytest.raises(PipelineError, match="pass 'failing' failed: KeyError: 'missing'") as caught:
        Pipeline.of([Failing], [], registry).run(program, registry)
    assert isinstance(caught.value.__cause__, KeyError)


def test_pass_that_returns_no_program_is_an_error(registry, program):
    forgetful = type("Forgetful", (Noting,), {"name": "forgetful", "run": lambda self, program, ctx: None})
    with pytest.raises(PipelineError, match="'forgetful' returned NoneType"):
        Pipeline.of([forgetful], [], registry).run(program, registry)


def test_observers_see_start_and_end_of_each_pass(registry, program):
    seen = []

    class Observer:
        @hookimpl
        def llmc_pass_started(self, name, program):
            seen.append((name, len(program.nodes)))

        @hookimpl
        def llmc_pass_finished(self, name, record):
            seen.append((name, record.nodes_after))

    registry.manager.register(Observer())
    Pipeline.of(["expand-silu", "refuse"], [], registry).run(program, registry)
    size = len(program.nodes)
    assert seen == [("expand-silu", size), ("expand-silu", size + 1), ("refuse", size + 1), ("refuse", size + 1)]


def test_resolve_puts_the_recipe_first_and_asks_for_the_rest(registry):
    assert [step.key for step in resolve(registry=registry)] == ["expand-silu"]
    pipeline = resolve("tripled", ["scale"], registry)
    assert [(step.key, step.asked) for step in pipeline] == [("expand-silu", False), ("scale", False), ("scale#2", True)]
    assert [step.key for step in resolve([], [Mine], registry)] == ["mine"]
