"""Lifetimes, hazards and barriers."""

from llmc.backends.cpu.generate import Generator
from llmc.backends.cpu.plan import Buffer, Statement, assign_offsets, conflict, place_barriers, set_lifetimes
from llmc.ir import ops
from tests.backends.cpu.programs import agree, program, weight


def twins():
    now, later = Buffer("now", 16, "float32"), Buffer("later", 16, "float32")
    now.twin, later.twin = later, now
    return now, later


def sections(now, later, after):
    """One layer that reads `now` and leaves `later`; what follows reads `now` and then, two barriers on, needs memory."""
    x = Buffer("x", 16, "float32")
    steps = [Statement("", [x], [x], barrier=True), Statement("", [x], [after], barrier=True)]
    return [[Statement("", [], [now])], [Statement("", [now], [later])], [Statement("", [now], [x]), *steps]], x


def test_buffers_that_change_places_live_as_long_as_either():
    now, later = twins()
    after = Buffer("after", 16, "float32")
    made, x = sections(now, later, after)
    set_lifetimes(made, [now, later, x, after])
    assert (now.first, now.last) == (later.first, later.last) == (1, 3)
    assign_offsets([now, later, x, after])
    assert len({now.offset, later.offset, x.offset}) == 3 and after.offset in (now.offset, later.offset)


def test_buffers_that_share_memory_have_a_barrier_between_them():
    a, b, c = (Buffer(name, 16, "float32") for name in "abc")
    statements = [Statement("", [], [a]), Statement("", [a], [b]), Statement("", [b], [c], rows="T")]
    assert place_barriers(statements) == 2
    set_lifetimes([statements, [], []], [a, b, c])
    assign_offsets([a, b, c])
    assert a.offset == c.offset != b.offset
    statements[2].rows = statements[1].rows = "T"
    for statement in statements:
        statement.barrier = False
    assert place_barriers(statements) == 1
    for buffer in (a, b, c):
        buffer.first = buffer.last = -1
    set_lifetimes([statements, [], []], [a, b, c])
    assign_offsets([a, b, c])
    assert len({a.offset, b.offset, c.offset}) == 3


def test_statements_that_split_rows_differently_wait_for_each_other():
    x = Buffer("x", 12, "float32")
    write, other = Statement("", [], [x], rows="T * 3"), Statement("", [x], [], rows="T")
    assert conflict(write, other) and not conflict(write, Statement("", [x], [], rows="T * 3"))


def test_lookup_of_several_ids_a_token_waits_before_its_result_is_read_by_token():
    def build(e, ids):
        one = e.op(ops.reshape, ids, shape=(1,))
        three = e.op(ops.concat, one, e.op(ops.minimum, one, 3), e.op(ops.minimum, one, 2), dim=1)
        x = e.op(ops.embedding, three, weight(e, "table", 50, 64))
        return e.op(ops.reshape, e.op(ops.relu, x), shape=(192,))

    made = program(build)
    statements = Generator(made).epilogue or Generator(made).prologue
    lookup = next(i for i, s in enumerate(statements) if s.text.startswith("embedding"))
    assert statements[lookup].rows == "T * 3" and statements[lookup + 1].barrier
    agree(made)


def test_packed_copies_are_among_what_a_product_reads():
    """A linear over heads that lie in a wider row reads a copy, whose memory nobody may take before."""

    def build(e, ids):
        x = e.op(ops.embedding, ids, weight(e, "table", 50, 288))
        heads = e.op(ops.reshape, x, shape=(6, 48))
        q, k = (e.op(ops.slice_, heads, dim=1, start=start, stop=start + 2) for start in (0, 2))
        q, k = (e.op(ops.linear, y, weight(e, name, 48, 48)) for y, name in ((q, "p"), (k, "r")))
        return e.op(ops.reshape, e.op(ops.add, q, k), shape=(96,))

    made = program(build)
    generator = Generator(made)
    for statement in generator.prologue:
        for buffer in generator.buffers:
            inside = f"{buffer.name}," in statement.text or f"{buffer.name} " in statement.text
            assert not inside or buffer in (*statement.reads, *statement.writes), statement.text
    agree(made)
