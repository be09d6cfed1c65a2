"""What is done around every pass."""

import json
import math

import pytest
import torch

from llmc.errors import PipelineError, VerificationError
from llmc.ir.program import Program
from llmc.pipeline.base import Pass
from llmc.pipeline.instrument import Compare, Dump, Verify, example_ids, output_error
from llmc.pipeline.pipeline import Pipeline
from llmc.pipeline.record import PassRecord


class Break(Pass):
    """Claim a type that is not so."""

    name = "break"

    def run(self, program, ctx):
        editor = program.edit(self.name)
        node = editor.nodes[-1]
        node.meta["type"] = node.meta["type"].with_fixed((1,))
        return Program(editor.graph, editor.weights, editor.outputs)


def test_verify_names_the_pass_that_broke_the_program(registry, program):
    pipeline = Pipeline.of(["expand-silu", Break], [], registry)
    pipeline.run(program, registry)
    with pytest.raises(VerificationError, match="after pass 'break': node"):
        pipeline.run(program, registry, [Verify()])


def test_compare_records_the_error_of_each_pass_alone(registry, program):
    result = Pipeline.of(["damage", "refuse", "expand-silu"], [], registry).run(program, registry, [Compare()])
    damage, refuse, expand = (record.error for record in result.records)
    assert damage > 0.1 and refuse == 0.0 and expand < 1e-6


def test_compare_stops_at_the_tolerance(registry, program):
    Pipeline.of(["expand-silu"], [], registry).run(program, registry, [Compare(1e-5)])
    with pytest.raises(PipelineError, match="pass 'scale' changes the outputs by"):
        Pipeline.of(["scale"], [], registry).run(program, registry, [Compare(1e-5)])


def test_output_error_is_that_of_the_worst_output_whatever_its_size():
    large, small = torch.full((2,), 1e6), torch.tensor([1e-3])
    assert output_error({"a": large, "b": small * 2}, {"a": large, "b": small}) == pytest.approx(1.0)


def test_output_error_is_never_below_a_tolerance_when_values_cannot_be_compared():
    one = torch.ones(2)
    assert math.isnan(output_error({"a": one, "b": one * math.nan}, {"a": one, "b": one}))
    assert output_error({"a": one}, {"b": one}) == math.inf
    assert output_error({"a": torch.ones(3)}, {"a": one}) == math.inf


def test_example_ids_are_the_same_for_a_seed_and_in_the_vocabulary(program):
    ids = example_ids(program, 64)
    assert torch.equal(ids, example_ids(program, 64)) and not torch.equal(ids, example_ids(program, 64, seed=1))
    assert ids.min() >= 0 and ids.max() < 11 and ids.max() > 5


def test_dump_writes_numbered_programs_and_records(registry, program, tmp_path):
    dump = Dump(tmp_path / "dump")
    pipeline = Pipeline.of(["expand-silu", "refuse", "refuse"], [], registry)
    for _ in range(2):  # the second run starts over
        result = pipeline.run(program, registry, [Compare(), dump])
    names = sorted(path.name for path in dump.folder.iterdir())
    assert names == ["00-captured.txt", "01-expand-silu.txt", "02-refuse.txt", "03-refuse#2.txt", "records.json"]
    assert (dump.folder / "00-captured.txt").read_text().rstrip() == str(program)
    assert "sigmoid(" in (dump.folder / "01-expand-silu.txt").read_text()
    records = json.loads((dump.folder / "records.json").read_text())
    assert [PassRecord.from_json(record) for record in records] == result.records
