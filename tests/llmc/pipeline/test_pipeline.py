"""Pipelines: made, printed, sliced, run."""

import pytest

from llmc.errors import PipelineError, PluginError, VerificationError
from llmc.ir import ops
from llmc.ir.pattern import ANY
from llmc.ir.program import origin_of
from llmc.ir.rewrite import Rule
from llmc.ir.score import SCORE, apply, per_head
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


def test_asking_for_a_pass_of_the_recipe_with_options_replaces_its_options(registry):
    pipeline = resolve("tripled", [{"name": "scale", "factor": 5}, "scale", "expand-silu"], registry)
    assert [(step.key, step.asked) for step in pipeline] == [("expand-silu", True), ("scale", True), ("scale#2", True)]
    assert [pipeline[1].item.config.factor, pipeline[2].item.config.factor] == [5, 2]


@pytest.mark.parametrize("spec", ["scale", {"name": "scale", "factor": 3}, Mine, Mine()], ids=["name", "dict", "class", "pass"])
def test_single_pass_need_not_be_in_a_list(registry, spec):
    assert len(Pipeline.of([], spec, registry)) == 1


def test_passes_that_are_no_list_are_refused(registry):
    with pytest.raises(PipelineError, match="passes are given as a list"):
        Pipeline.of([], lambda program, ctx: program, registry)


def test_pass_with_an_init_of_its_own_runs_and_prints(registry, program):
    class Limited(Mine):
        def __init__(self, limit):
            self.limit = limit

    pipeline = Pipeline.of([], Limited(3), registry)
    assert "mine" in str(pipeline) and pipeline.run(program, registry).records[0].matched == 1


def test_name_in_before_that_is_misspelt_is_noted(registry, program):
    late = type("Late", (Mine,), {"name": "late", "before": {"scales", "of-another-plugin"}})
    pipeline = Pipeline.of(["scale"], [late], registry)
    (note,) = pipeline.run(program, registry).records[1].notes
    assert note == "its `before` names 'scales', which no pass is called or provides; did you mean 'scale'?"
    assert f"late: {note}" in str(pipeline)


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


def test_change_of_a_number_that_is_not_printed_counts_as_a_change(registry, program):
    class Slopes(Noting):
        name = "slopes"

        def run(self, program, ctx):
            editor = program.edit()
            (node,) = (node for node in editor.nodes if node.target is ops.attention)
            node.kwargs = {**node.kwargs, "score": apply("add", SCORE, per_head(self.slopes))}
            return editor.finish()

    first, second = Slopes(), Slopes()
    first.slopes, second.slopes = (1, 2), (3, 4)
    assert len(Pipeline.of([], [first, second], registry).run(program, registry).records) == 2
    with pytest.raises(PipelineError, match="'slopes#2' was asked for but matched nothing"):
        Pipeline.of([], [first, first], registry).run(program, registry)


def test_error_of_llmc_within_a_pass_keeps_its_kind_and_names_the_pass(registry, program):
    class Careless(Noting):
        name = "careless"

        def run(self, program, ctx):
            editor = program.edit()
            editor.nodes[1].meta["type"] = editor.nodes[1].meta["type"].with_fixed((3,))
            return editor.finish()

    with pytest.raises(VerificationError, match="pass 'careless': node 'rms_norm' of layer: it claims"):
        Pipeline.of([], [Careless], registry).run(program, registry)


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


def test_observer_that_fails_is_warned_about_and_the_others_are_called(registry, program):
    seen = []

    class Broken:
        @hookimpl
        def llmc_pass_finished(self, record):
            raise RuntimeError("observer broke")

    class Observer:
        @hookimpl
        def llmc_pass_finished(self, name):
            seen.append(name)

    for name, plugin in (("a", Observer()), ("watcher", Broken()), ("b", Observer())):
        registry.manager.register(plugin, name=name)
    with pytest.warns(UserWarning, match="plugin 'watcher' failed in llmc_pass_finished: RuntimeError: observer broke"):
        Pipeline.of(["expand-silu"], [], registry).run(program, registry)
    assert seen == ["expand-silu"] * 2


def test_resolve_puts_the_recipe_first_and_asks_for_the_rest(registry):
    assert [step.key for step in resolve(registry=registry)] == ["expand-silu"]
    pipeline = resolve("tripled", ["scale"], registry)
    assert [(step.key, step.asked) for step in pipeline] == [("expand-silu", False), ("scale", True)]
    assert pipeline[1].item.config.factor == 3
    assert [step.key for step in resolve([], [Mine], registry)] == ["mine"]
