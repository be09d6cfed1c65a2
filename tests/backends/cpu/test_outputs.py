"""Results in the caller's memory."""

from llmc.backends.cpu.generate import Generator
from llmc.ir import ops
from tests.backends.cpu.programs import agree, program, table, weight


def test_one_value_may_have_two_names():
    def build(e, ids):
        y = e.op(ops.linear, e.op(ops.select_rows, table(e, ids)), weight(e, "w", 5, 8))
        return y, y

    agree(program(build, names=("logits", "copy")), rows=[4, 1])


def test_part_of_a_result_is_a_result_too():
    def build(e, ids):
        y = e.op(ops.linear, e.op(ops.select_rows, table(e, ids)), weight(e, "w", 6, 8))
        return e.op(ops.slice_, y, dim=1, start=2, stop=5), y, e.op(ops.exp, y)

    agree(program(build, names=("part", "logits", "exp")), rows=[4, 1])


def test_result_for_every_token_has_every_token_whatever_rows_are_asked_for():
    def build(e, ids):
        x = table(e, ids)
        return e.op(ops.linear, x, weight(e, "w", 5, 8)), e.op(ops.select_rows, x)

    made = program(build, names=("hidden", "last"))
    agree(made, rows=[3])
    agree(made, ids=[1, 2, 3], rows=[2, 1, 2, 1, 0])


def test_results_may_be_whole_numbers_and_truths_and_inputs():
    def build(e, ids):
        one = e.op(ops.reshape, ids, shape=(1,))
        return e.op(ops.mul, one, 3), e.op(ops.gt, table(e, ids), 0.0), ids

    agree(program(build, names=("number", "truth", "again")))


def test_result_of_the_last_product_is_written_without_a_copy():
    made = program(lambda e, ids: e.op(ops.linear, table(e, ids), weight(e, "w", 5, 8)))
    statements = Generator(made).prologue
    assert "output_logits" in statements[-1].text and statements[-1].text.startswith("linear_f32")
