"""Which op is the first that computes something else."""

import numpy as np
import pytest
import torch

import llmc
from llmc.backends.cpu import build
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.eager.backend import EagerBackend
from llmc.conformance.programs import VOCAB as CASE_VOCAB
from llmc.conformance.programs import build as build_case
from llmc.conformance.whole import WHOLE
from llmc.errors import InputError
from llmc.evaluate.islands import error, islands
from llmc.evaluate.verify import verify
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.types import Origin, TensorType
from llmc.ir.weights import Stored
from llmc.runtime.model import CompiledModel, ModelInfo
from llmc.runtime.rebuild import rebuild

VOCAB, WIDTH = 50, 8


def weight(editor, *shape):
    return editor.weight(Stored(torch.randn(shape)), "w")


@pytest.fixture(scope="module")
def program():
    """Two layers of attention with norms whose origins name layer and pass; positions and logits of single rows."""
    torch.manual_seed(3)
    editor = Editor()
    x = editor.op(ops.embedding, editor.input("input_ids"), weight(editor, VOCAB, WIDTH))
    x = editor.op(ops.add, x, editor.op(ops.embedding, editor.input("position"), weight(editor, 64, WIDTH)))
    for layer in range(2):
        editor.origin = Origin(f"layers.{layer}.norm", f"model.py:{10 + layer}", ("canonicalize", "raise-norms"))
        normed = editor.op(ops.rms_norm, x, weight(editor, WIDTH), eps=1e-5)
        editor.origin = Origin(f"layers.{layer}.attention")
        heads = editor.op(ops.reshape, editor.op(ops.linear, normed, weight(editor, WIDTH, WIDTH)), shape=(2, 4))
        mixed = editor.op(ops.attention, heads, heads, heads, scale=0.5, score=SCORE, admits=CAUSAL)
        x = editor.op(ops.add, x, editor.op(ops.reshape, mixed, shape=(WIDTH,)))
    x = editor.op(ops.select_rows, x)
    editor.outputs = ("logits",)
    editor.graph.output((editor.op(ops.linear, editor.op(ops.silu, x), weight(editor, VOCAB, WIDTH)),))
    return editor.finish()


def compiled(program, backend="cpu"):
    lowered = {"cpu": CpuBackend, "eager": EagerBackend}[backend]().lower(program)
    return CompiledModel(program, lowered, ModelInfo("small", VOCAB, 64, backend=backend, threads=1))


@pytest.fixture
def broken_norms(tmp_path, monkeypatch):
    """Kernels one of which does not multiply with its weight."""
    for path in build.KERNELS.iterdir():
        text = path.read_text()
        if path.name == "norms.h":
            assert text.count("in[i] * scale * weight[i]") == 1
            text = text.replace("in[i] * scale * weight[i]", "in[i] * scale")
        (tmp_path / path.name).write_text(text)
    monkeypatch.setattr(build, "KERNELS", tmp_path)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_backend_that_computes_the_same_agrees_on_every_op(program, backend):
    found = verify(compiled(program, backend))
    assert found.agrees and found.first is None and not found.remark
    assert {check.node for check in found.ops} == {n.name for n in program.nodes if n.target is not ops.select_rows}
    assert max(check.error for check in found.ops) < 1e-6 and found.outputs["logits"] < 1e-5
    assert set(found.worst()) == {"embedding", "add", "rms_norm", "reshape", "linear", "attention", "silu"}


def test_broken_kernel_is_named_with_its_origin_and_pass(program, broken_norms):
    found = verify(compiled(program))
    assert not found.agrees
    assert (found.first.op, found.first.origin.module) == ("rms_norm", "layers.0.norm")
    assert "of layers.0.norm (model.py:10), made by pass raise-norms: error" in str(found.first)
    assert [check.op for check in found.ops if check.diverges] == ["rms_norm"] * 2  # what follows is given the right values


def other_activation(program):
    """The program with relu for silu."""
    edited = program.edit()
    for node in list(edited.graph.nodes):
        if node.op == "call_function" and node.target is ops.silu:
            node.target = ops.relu
    return edited.finish()


def test_backend_that_is_broken_is_named_beside_a_model_of_another(program):
    class Broken(EagerBackend):
        name = "broken"

        def lower(self, program):
            return super().lower(other_activation(program))

    found = verify(compiled(program, "eager"), backend=Broken())
    assert (found.backend, found.first.op, found.outputs["logits"] > 1e-2) == ("broken", "silu", True)


def test_edited_sources_are_blamed_when_every_op_is_right(program, tmp_path):
    compiled(program).save(tmp_path / "m")
    path = tmp_path / "m" / "executable" / "model.cpp"
    text = path.read_text()
    where = text.rindex("0.5f")  # the scale of the last attention
    path.write_text(f"{text[:where]}0.25f{text[where + 4 :]}")
    rebuild(tmp_path / "m")
    found = verify(llmc.load(tmp_path / "m", threads=1))
    assert not found.agrees and found.first is None
    line = text[:where].count("\n") + 1
    assert f"model.cpp, line {line}, was edited, in '// layers.*.attention'" in found.remark


def test_error_that_only_the_whole_program_has_is_told(program):
    class Confused(EagerBackend):
        """Right on single ops, wrong where it has the whole to itself."""

        name = "confused"

        def lower(self, program):
            return super().lower(program if len(program.outputs) > 1 else other_activation(program))

    found = verify(compiled(program, "eager"), backend=Confused())
    assert not found.agrees and found.first is None
    assert "each op alone is right" in found.remark and "no value before the outputs is wrong" in found.remark


def test_every_op_of_the_islands_reads_what_the_reference_gives(program):
    made = islands(program)
    for node in made.nodes:
        for arg in node.all_input_nodes:
            assert arg.op != "call_function"
    assert not made.find("select_rows")


@pytest.mark.parametrize("case", ["pool", "attention-band"])
def test_program_over_whole_sequences_is_verified_in_one_step(case):
    made = build_case(WHOLE[case])
    model = CompiledModel(made, EagerBackend().lower(made), ModelInfo("whole", CASE_VOCAB, 70, backend="eager"))
    found = verify(model)
    assert found.agrees and found.tokens == 40 and "attention" in found.worst()


def test_segment_is_refused():
    editor = Editor()
    editor.outputs = ("out",)
    ids, hidden = editor.input("input_ids"), editor.input("hidden", TensorType("float32", ("T", 4)))
    editor.graph.output((editor.op(ops.add, hidden, editor.op(ops.embedding, ids, weight(editor, VOCAB, 4))),))
    with pytest.raises(InputError, match="not input_ids, hidden"):
        verify(compiled(editor.finish(), "eager"))


def test_ids_are_checked(program):
    for ids, message in (([VOCAB], "token id 50"), ([], "empty"), ([1] * 65, "65 tokens")):
        with pytest.raises(InputError, match=message):
            verify(compiled(program, "eager"), ids)
    assert verify(compiled(program, "eager"), [7]).tokens == 1


@pytest.mark.parametrize(
    ("found", "expected", "result"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.0], [0.0], 0.0),
        ([1.0], [0.0], 1.0),
        ([np.nan], [1.0], np.inf),
        ([1.0], [np.nan], np.inf),
        ([np.nan, 1.0], [np.nan, 1.0], 0.0),
        ([-np.inf, 2.0], [-np.inf, 2.0], 0.0),
        ([np.inf], [-np.inf], np.inf),
    ],
)
def test_error_is_relative_to_the_largest_and_infinite_where_one_is_no_number(found, expected, result):
    assert error(np.float32(found), np.float32(expected)) == result
