"""Text of the user's model in generated code."""

import os

import pytest

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.generate import Generator
from llmc.backends.cpu.names import KEYWORDS, LONGEST_COMMENT, Names, comment, identifier
from llmc.backends.cpu.source import print_source
from llmc.backends.cpu.targets import PORTABLE
from llmc.ir import ops
from llmc.ir.types import Origin
from tests.backends.cpu.programs import agree, program, rounded, step, table, weight

NASTY = ("a\nint x(", "a\rint x(", "a\x0bint x(", "a\u2028int x(", "tail\\",
         "tail??/", "*/ int x(", "// /*", "café", "x²", "名", "",
         "1", "a.b", "class", "NULL", "M_PI", "T", "r", "x" * 5000, "model", "Layer", "layers", "__x", "linear_f32", "top",
         "int64_t", "Score0", "embedding", 'u8R"(')  # fmt: skip


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_comment_is_one_line_that_ends_where_it_ends(text):
    line = comment(text)
    assert line.isprintable() and len(line.splitlines()) <= 1 and len(line) <= LONGEST_COMMENT + 3
    assert "\\" not in line and "??/" not in line


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_identifier_is_ascii_and_not_reserved(text):
    name = identifier(text)
    assert name.isascii() and name.isidentifier() and "__" not in name and not name.startswith("_") and not name.isupper()
    assert Names().take(text) not in KEYWORDS


def test_names_are_free_with_all_their_suffixes():
    names = Names()
    assert names.take("gate_scale") == "gate_scale"
    assert names.take("gate", ("", "_scale")) == "gate_1"
    assert names.take("gate") == "gate"


def test_names_of_weights_outputs_and_origins_never_become_code():
    def build(e, ids):
        results = []
        for text in NASTY:
            e.origin = Origin(f"{text}.module", text, (text,))
            x = e.op(ops.mul, e.op(ops.select_rows, table(e, ids, name=text)), weight(e, text or "other", 8))
            results += [x, e.op(ops.linear, x, weight(e, f"{text}_scale", 5, 8))]
        return tuple(results)

    made = program(build, names=[name for text in NASTY for name in (text, f"{text}.hidden")])
    for line in print_source(Generator(made), PORTABLE).split("\n"):
        assert line.isprintable() and "int x(" not in line.split("//")[0]
    agree(made)


def test_newline_in_an_origin_does_not_run(tmp_path):
    mark = tmp_path / "ran"

    def build(e, ids):
        e.origin = Origin(f'x\nif (team.id == 0) std::system("touch {mark}"); //')
        return e.op(ops.linear, table(e, ids), weight(e, "w", 5, 8))

    step(CpuBackend().lower(program(build)), range(5))
    assert not os.path.exists(mark)


def test_scale_of_a_rounded_weight_does_not_take_anothers_name():
    def build(e, ids):
        x = e.op(ops.mul, table(e, ids, size=32), weight(e, "a_scale", 32))
        return e.op(ops.linear, x, rounded(e, "a", 5, 32), activations="int8")

    agree(program(build), tolerance=1e-3)


def test_comment_keeps_what_is_harmless():
    assert comment("model.layers.*.mlp (quantize)  0.40 MB") == "model.layers.*.mlp (quantize)  0.40 MB"
