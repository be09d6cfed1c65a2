"""What a backend does not read is handed over as something that it does, and told."""

import pytest

import llmc
from llmc.conformance.formats import WEIGHTS
from llmc.conformance.models import BUNDLED
from llmc.conformance.programs import VOCAB, WIDTH, build
from llmc.plugins.registry import Entry, default
from llmc.runtime.lowering import decomposed, lower
from tests.backends.partial_backends import Lacking


@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.setitem(default()._entries["backends"], "lacking", Entry("lacking", Lacking, "tests", "0"))
    return Lacking()


def test_weight_in_a_format_that_is_not_read_becomes_float32_when_it_is_read(lacking):
    program = build(WEIGHTS["linear", "bf16"])
    given, [record] = decomposed(lacking, "lacking", program)
    assert {str(weight.format) for weight in given.weights.values()} == {"f32"} and given.graph is program.graph
    assert (given.weights["w"].evaluate() == program.weights["w"].evaluate()).all()
    assert record.notes == [
        "backend 'lacking' does not read bf16 (its registers know no bfloat16); weights handed over as f32: 1, "
        "0.00 MB instead of 0.00"
    ]
    assert record.weight_bytes_after - record.weight_bytes_before == 2 * VOCAB * WIDTH and record.matched == 1


@pytest.mark.parametrize("format", ["f32", "int8", "int4g64z"])
def test_weight_in_a_format_that_is_read_stays_and_nothing_is_told(lacking, format):
    program = build(WEIGHTS["linear", format])
    assert decomposed(lacking, "lacking", program) == (program, ())
    assert lower(lacking, "lacking", program).records == ()


def test_explanation_tells_what_lowering_changed_for_the_backend_at_hand(lacking, tmp_path):
    from llmc.ir.formats import Dense
    from llmc.ir.weights import Encoded
    from llmc.passes.canonical.canonicalize import Canonicalize

    class Shorten(Canonicalize):
        name = "shorten"

        def run(self, program, ctx):
            editor = program.edit(self.name)
            for name, weight in program.weights.items():
                if len(weight.shape) == 2:
                    encode = lambda rows: {"values": rows.bfloat16()}  # noqa: E731
                    editor.set_weight(name, Encoded(weight, Dense("bfloat16"), encode))
            return editor.finish()

    model = llmc.compile(BUNDLED, recipe=[Shorten], backend="lacking")
    assert "lower: backend 'lacking' does not read bf16" in model.explain()
    assert model.records[-1].weight_bytes_after > model.records[-1].weight_bytes_before == model.program.weight_bytes()
    model.save(tmp_path / "m")
    assert "lower: backend 'lacking' does not read bf16" in llmc.load(tmp_path / "m").explain()
    assert "does not read" not in llmc.load(tmp_path / "m", backend="eager").explain()
