import pytest

from llmc.ir import ops
from llmc.passes.canonical.rope import RaiseRope
from tests.passes.programs import program

HEADS, SIZE = 2, 12


def rotary(m, x, size=SIZE, same=True, swap=False, scale=None):
    """x [T, H, size] turned as most models write it."""
    position = m.op(ops.cast, m.input("position"), dtype="float32")
    half = m.op(ops.mul, m.op(ops.reshape, position, shape=(1,)), m.random(size // 2))
    other = half if same else m.op(ops.mul, half, 1.5)
    both = m.op(ops.concat, half, other, dim=1)
    cos, sin = (m.op(o, both) for o in (ops.cos, ops.sin))
    if scale:
        cos, sin = (m.op(ops.mul, value, scale) for value in (cos, sin))
    cos, sin = (m.op(ops.reshape, value, shape=(1, size)) for value in (cos, sin))
    first, second = (m.op(ops.slice_, x, dim=2, start=s, stop=s + size // 2) for s in (0, size // 2))
    if swap:
        first, second = second, first
    turned = m.op(ops.concat, m.op(ops.neg, second), first, dim=2)
    return m.op(ops.add, m.op(ops.mul, x, cos), m.op(ops.mul, turned, sin))


def heads(m):
    return m.op(ops.reshape, m.x, shape=(HEADS, SIZE))


def flat(m, x):
    return m.op(ops.reshape, x, shape=(HEADS * SIZE,))


def full(m):
    return flat(m, rotary(m, heads(m)))


def scaled(m):
    return flat(m, rotary(m, heads(m), scale=0.7))


def partial(m):
    x = heads(m)
    first, rest = m.op(ops.slice_, x, dim=2, start=0, stop=8), m.op(ops.slice_, x, dim=2, start=8, stop=SIZE)
    return flat(m, m.op(ops.concat, rotary(m, first, 8), rest, dim=2))


def single(m):
    """x [T, WIDTH] turned without a dimension of heads."""
    size = HEADS * SIZE
    position = m.op(ops.cast, m.input("position"), dtype="float32")
    half = m.op(ops.mul, m.op(ops.reshape, position, shape=(1,)), m.random(size // 2))
    cos, sin = (m.op(o, m.op(ops.concat, half, half, dim=1)) for o in (ops.cos, ops.sin))
    first, second = (m.op(ops.slice_, m.x, dim=1, start=s, stop=s + size // 2) for s in (0, size // 2))
    turned = m.op(ops.concat, m.op(ops.neg, second), first, dim=1)
    return m.op(ops.add, m.op(ops.mul, m.x, cos), m.op(ops.mul, turned, sin))


@pytest.mark.parametrize("make", [full, scaled, partial, single])
def test_raise_rope_makes_one_op_with_the_angles_of_one_half(make, run_pass):
    after, _ = run_pass(RaiseRope(), program(make))
    (rope,) = after.find("rope")
    assert rope.args[1].meta["type"].fixed == ({partial: 4, single: SIZE}.get(make, SIZE // 2),)
    assert not after.find("concat") and not after.find("slice")


@pytest.mark.parametrize("make", [full, scaled, partial, single])
def test_raise_rope_keeps_the_numbers(make, run_pass, difference):
    before = program(make)
    assert difference(run_pass(RaiseRope(), before)[0], before) < 1e-6


@pytest.mark.parametrize("options", [{"same": False}, {"swap": True}], ids=["other-angles", "halves-swapped"])
def test_raise_rope_leaves_alone_what_is_no_rotation(options, run_pass):
    before = program(lambda m: flat(m, rotary(m, heads(m), **options)))
    after, ctx = run_pass(RaiseRope(), before)
    assert after is before and ctx.refusals

