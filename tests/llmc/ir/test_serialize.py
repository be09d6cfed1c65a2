"""Programs on disk."""

import pytest
import torch
from safetensors.torch import load_file

from llmc.errors import ArtifactError
from llmc.ir import ops, tensor_file
from llmc.ir.edit import Editor
from llmc.ir.formats import Integer
from llmc.ir.pattern import ANY
from llmc.ir.program import Program
from llmc.ir.rewrite import Rule
from llmc.ir.weights import Computed, Concatenated, Encoded, Sliced, Stored, opened


def test_names_of_nodes_survive_saving_whatever_their_order_and_the_weights_are_called(tmp_path):
    editor = Editor()
    x = editor.op(ops.embedding, editor.input("input_ids"), editor.weight(Stored(torch.randn(5, 4)), "mul"))
    for factor in (2.0, 3.0, 4.0):
        x = editor.op(ops.mul, editor.op(ops.relu, x), factor)
    editor.outputs = ("out",)
    editor.graph.output((x,))
    squared = Rule(ops.relu(ANY.x), lambda e, m: e.op(ops.mul, m["x"], m["x"]))
    program = editor.finish().rewrite(squared)
    assert [node.name for node in program.nodes][1:3] == ["mul_3", "mul"]
    program.save(tmp_path)
    assert str(Program.load(tmp_path)) == str(program)


def program_of(**weights):
    """The sum of weights, as long as rows fit, around an embedding of width 4."""
    editor = Editor()
    x = editor.op(ops.embedding, editor.input("input_ids"), editor.weight(Stored(torch.randn(5, 4)), "table"))
    for name, weight in weights.items():
        x = editor.op(ops.add, x, editor.weight(weight, name))
    editor.outputs = ("out",)
    editor.graph.output((x,))
    return editor.finish()


def doubled(program):
    """The program with every weight of another value, computed from the old one."""
    editor = program.edit("double")
    for name, weight in program.weights.items():
        editor.set_weight(name, Computed(lambda t: t * 2, (weight,), weight.shape, "float32"))
    return editor.finish()


def output(program):
    return program.as_module()(torch.arange(5))["out"]


def test_program_may_be_saved_where_it_was_loaded_from(tmp_path):
    program_of(w=Stored(torch.randn(4))).save(tmp_path)
    loaded = Program.load(tmp_path)
    before, changed = output(loaded), doubled(loaded)
    expected = output(changed)
    changed.save(tmp_path)
    assert torch.equal(output(loaded), before) and torch.equal(output(changed), expected)
    assert torch.equal(output(Program.load(tmp_path)), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program.json", "weights.safetensors"]


def test_failed_save_leaves_what_was_there(tmp_path):
    good = program_of(w=Stored(torch.randn(4)))
    good.save(tmp_path)

    def fail(tensor):
        raise RuntimeError("cannot be computed")

    with pytest.raises(RuntimeError, match="cannot be computed"):
        program_of(w=Computed(fail, (Stored(torch.zeros(4)),), (4,), "float32")).save(tmp_path)
    assert torch.equal(output(Program.load(tmp_path)), output(good)) and len(list(tmp_path.iterdir())) == 2


def test_file_that_changed_after_it_was_loaded_is_refused(tmp_path):
    program_of(w=Stored(torch.randn(4))).save(tmp_path)
    loaded = Program.load(tmp_path)
    program_of(w=Stored(torch.randn(4))).save(tmp_path)
    opened.cache_clear()
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: the file changed on disk.*load it again"):
        output(loaded)


def test_weights_of_every_dtype_and_shape_are_written_as_safetensors_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 40)  # several blocks for each
    torch.manual_seed(0)
    matrix = Stored(torch.randn(7, 4))
    quantized = Encoded(matrix, Integer(8), lambda rows: {"values": rows.to(torch.int8), "scale": rows.amax(1)})
    weights = {
        "half": Stored(torch.randn(5, 3).half()),
        "brain": Stored(torch.randn(9).bfloat16()),
        "number": Stored(torch.tensor(2.5)),
        "whole": Stored(torch.arange(11)),
        "mask": Stored(torch.rand(6, 2) > 0.5),
        "merged": Concatenated((matrix, Sliced(matrix, 2, 5))),
        "computed": Computed(lambda t: t.T, (matrix,), (4, 7), "bfloat16"),
        "int8": quantized,
        "empty": Stored(torch.zeros(0, 3)),
    }
    tensor_file.write_weights(weights, tmp_path / "file.safetensors")
    read = load_file(tmp_path / "file.safetensors")
    expected = {f"{name}:{part}": tensor for name, weight in weights.items() for part, tensor in weight.parts().items()}
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[key], tensor) and read[key].dtype == tensor.dtype for key, tensor in expected.items())


def test_weights_are_written_a_block_of_rows_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 64)
    read = []

    class Watched(Stored):
        def parts(self, start=0, stop=None):
            read.append(stop - start)
            return super().parts(start, stop)

    tensor_file.write_weights({"w": Watched(torch.randn(10, 4))}, tmp_path / "file.safetensors")
    assert read == [4, 4, 2]
