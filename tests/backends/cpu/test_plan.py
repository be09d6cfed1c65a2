"""Where threads wait, where values lie, and that no schedule of the threads shows."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.generate import Generator
from llmc.backends.cpu.plan import Buffer, Plan, Statement, repeatable
from llmc.conformance.programs import every_output
from llmc.ir import ops
from tests.backends.cpu.programs import agree, program, step, weight

LAYERS = 3


def twins():
    now, later = Buffer("now", 16, "float32"), Buffer("later", 16, "float32")
    now.twin, later.twin = later, now
    return now, later


def plans(prologue, body, epilogue):
    """For many rows, and for few."""
    sections = prologue, body, epilogue
    return Plan(sections), Plan(sections, repeatable([*prologue, *body, *epilogue]))


def test_buffers_that_change_places_live_as_long_as_either():
    """What follows the loop reads `now` and then, two waits on, needs memory."""
    now, later = twins()
    x, after = Buffer("x", 16, "float32"), Buffer("after", 16, "float32")
    epilogue = [Statement("", [now], [x]), Statement("", [x], [x]), Statement("", [x], [after])]
    plan = Plan(([Statement("", [], [now])], [Statement("", [now], [later])], epilogue))
    assert len({plan.offsets[buffer] for buffer in (now, later, x)}) == 3
    assert plan.offsets[after] in (plan.offsets[now], plan.offsets[later])


def test_buffers_that_share_memory_have_a_wait_between_them():
    a, b, c = (Buffer(name, 16, "float32") for name in "abc")
    made = [Statement("", [], [a]), Statement("", [a], [b]), Statement("", [b], [c], rows="T")]
    plan = Plan((made, [], []))
    assert plan.waits == {*made[1:]} and plan.offsets[a] == plan.offsets[c] != plan.offsets[b]
    made[1].rows = "T"
    plan = Plan((made, [], []))
    assert plan.waits == {made[1]} and len({*plan.offsets.values()}) == 3


@pytest.mark.parametrize(("first", "then", "waits"), [("T", "T", 0), ("T * 3", "T", 1), ("T", None, 1), (None, "T", 1)])
def test_statements_wait_for_others_that_split_differently(first, then, waits):
    x = Buffer("x", 12, "float32", external=True)
    assert len(Plan(([Statement("", [], [x], first), Statement("", [x], [], then)], [], [])).waits) == waits


def test_with_few_rows_threads_wait_around_products_alone():
    """Two products, whose results all read, and what is computed row by row, which each thread has for itself."""
    now, later = twins()
    a, p, b, q = (Buffer(name, 16, "float32") for name in "apbq")
    start = Statement("start", [], [now], "T")
    body = [Statement("norm", [now], [a], "T"), Statement("product", [a], [p]), Statement("gate", [p], [b], "T"),
            Statement("product", [b], [q]), Statement("sum", [now, q], [later], "T")]  # fmt: skip
    many, few = plans([start], body, [])
    assert few.private == {now, later, a, b} and few.repeated == {start, *body[::2]}
    assert few.waits == {body[2], body[4]} and many.waits == {*body[1:]}


def test_what_the_caller_sees_is_not_written_by_every_thread():
    x, out = Buffer("x", 16, "float32"), Buffer("out", 16, "float32", external=True)
    both, read = Statement("", [], [x, out], "T"), Statement("", [x], [], "T")
    assert repeatable([both, read]) == {read}  # x neither: it is written with the output, a share by each thread


def test_a_layer_does_not_wait_for_the_one_before_if_nothing_meets():
    now, later = twins()
    plan = Plan(([Statement("", [], [now], "T")], [Statement("", [now], [later], "T")], [Statement("", [now], [], "T")]))
    assert not plan.waits
    plan = Plan(([Statement("", [], [now], "T")], [Statement("", [now], [later])], [Statement("", [now], [], "T")]))
    assert plan.waits == {*plan.sections[1], *plan.sections[2]}


# ---- any plan of any statements


@st.composite
def sections(draw):
    """Statements before, in and after a loop, with what goes from layer to layer, each reading only what was written."""
    pair = twins() if draw(st.booleans()) else ()
    counter = iter(range(1000))

    def statement(known, targets):
        reads = draw(st.lists(st.sampled_from(known), max_size=3, unique_by=id)) if known else []
        fresh = [Buffer(f"b{next(counter)}", draw(st.sampled_from([16, 40, 64])), "float32", draw(st.integers(0, 9)) == 0)
                 for _ in range(draw(st.integers(0, 2)))]  # fmt: skip
        return Statement("", reads, [*targets, *fresh], draw(st.sampled_from([None, "T", "T", "T", "R"])))

    def some(known, count, targets=()):
        made, place = [], draw(st.integers(0, count - 1)) if count else 0
        for i in range(count):
            made.append(statement(known, targets if i == place else ()))
            known = [*known, *made[-1].writes]
        return made, known

    prologue, known = some([], draw(st.integers(1, 4)), pair[:1])
    body, after = some(known, draw(st.integers(1, 7)), pair[1:])
    inside = [buffer for buffer in after if buffer not in pair[1:]]
    epilogue, _ = some([*inside, *pair[:1]], draw(st.integers(0, 4)))
    return prologue, body, epilogue


@dataclass
class Run:
    """A statement of one layer, with the buffers that its names mean there, and how many waits were before it."""

    statement: Statement
    reads: list[Buffer]
    writes: list[Buffer]
    waits: int


def runs(plan):
    """All that a step does, the names of a pair swapped after each layer."""
    prologue, body, epilogue = plan.sections
    done, waits, swapped = [], 0, False
    parts = [(prologue, False), *[(body, True)] * LAYERS, (epilogue, False)]
    for number, (section, looped) in enumerate(parts):
        waits += number == 1  # before the loop
        for each in section:
            waits += each in plan.waits
            reads, writes = ([b.twin if b.twin and swapped else b for b in group] for group in (each.reads, each.writes))
            done.append(Run(each, reads, writes, waits))
        swapped ^= looped
    return done


def places(plan, buffers):
    """The bytes of shared memory that buffers take; what is external has a place of its own."""
    taken = set()
    for buffer in buffers:
        if buffer in plan.private:
            continue
        taken |= {buffer} if buffer.external else {*range(plan.offsets[buffer], plan.offsets[buffer] + buffer.bytes)}
    return taken


def race(plan, a, b):
    """Whether one thread in `a` and another in `b` may touch the same bytes, one of them writing."""
    first, then = a.statement, b.statement
    alike = first.rows is not None and first.rows == then.rows and plan.repeated.isdisjoint((first, then))
    for left, right in ((a.writes, [*b.reads, *b.writes]), (a.reads, b.writes)):
        # Alike, a thread touches its rows of a buffer alone; other buffers have other rows there.
        pairs = [(x, y) for x in left for y in right if not (alike and x is y)]
        if any(places(plan, [x]) & places(plan, [y]) for x, y in pairs):
            return True
    return False


@settings(max_examples=300, deadline=None)
@given(made=sections())
def test_no_two_threads_touch_the_same_bytes_between_two_waits(made):
    for plan in plans(*made):
        done = runs(plan)
        for i, a in enumerate(done):
            for b in done[i + 1 :]:
                if a.waits != b.waits:
                    break
                assert not race(plan, a, b), (i, a, b)


@settings(max_examples=300, deadline=None)
@given(made=sections())
def test_every_value_is_still_there_when_it_is_read(made):
    """Each byte remembers which buffer was written there last."""
    for plan in plans(*made):
        memory: dict[object, Buffer] = {}
        for each in runs(plan):
            for group, written in ((each.reads, False), (each.writes, True)):
                for buffer in group:
                    if buffer.external:
                        continue
                    start = plan.offsets[buffer]
                    for byte in range(start, start + buffer.bytes):
                        key = buffer in plan.private, byte
                        if written:
                            memory[key] = buffer
                        else:
                            assert memory[key] is buffer


# ---- real programs


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("tokens", [1, 2, 3, 5, 9])
def test_no_number_of_tokens_or_threads_changes_a_bit(tokens, threads):
    executable = CpuBackend().lower(every_output())
    ids = [(7 * i) % 19 for i in range(tokens)]
    whole = step(executable, [(7 * i) % 19 for i in range(12)], rows=range(tokens), threads=1)
    for name, values in step(executable, ids, threads=threads).items():
        assert np.array_equal(values, whole[name][:tokens], equal_nan=values.dtype.kind == "f"), name


def test_lookup_of_several_ids_a_token_waits_before_its_result_is_read_by_token():
    def build(e, ids):
        one = e.op(ops.reshape, ids, shape=(1,))
        three = e.op(ops.concat, one, e.op(ops.minimum, one, 3), e.op(ops.minimum, one, 2), dim=1)
        x = e.op(ops.embedding, three, weight(e, "table", 50, 64))
        return e.op(ops.reshape, e.op(ops.relu, x), shape=(192,))

    made = program(build)
    generator = Generator(made)
    statements = generator.epilogue or generator.prologue
    lookup = next(i for i, s in enumerate(statements) if s.text.startswith("embedding"))
    assert statements[lookup].rows == "T * 3" and statements[lookup + 1] in generator.many.waits
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
