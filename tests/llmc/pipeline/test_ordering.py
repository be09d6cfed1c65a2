"""The order that passes declare."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.errors import PipelineError
from llmc.pipeline.base import Pass
from llmc.pipeline.ordering import order


def make(name, **declared):
    """A pass that does nothing, keyed by its name."""
    body = {"name": name, "run": lambda self, program, ctx: program, **declared}
    return name, type(name, (Pass,), body)()


def keys(passes):
    return [key for key, _ in passes]


def test_order_moves_a_pass_after_what_must_precede_it_and_says_why():
    ordered, moves = order([make("quantize"), make("fuse-qkv", before={"quantize"}), make("last")])
    assert keys(ordered) == ["fuse-qkv", "quantize", "last"]
    assert moves == ["quantize moved after fuse-qkv (fuse-qkv must run before quantize)"]


def test_order_says_of_each_moved_pass_what_held_it_back():
    _, moves = order([make("a", after={"c"}), make("b", after={"a"}), make("c")])
    assert moves == ["a moved after c (c must run before a)", "b moved along with a (a must run before b)"]


def test_order_follows_capabilities_like_names():
    ordered, _ = order([make("prune", before={"packed"}), make("x"), make("pack", provides={"packed"}, after={"x"})])
    assert keys(ordered) == ["prune", "x", "pack"]
    ordered, _ = order([make("pack", provides={"packed"}), make("prune", before={"packed"})])
    assert keys(ordered) == ["prune", "pack"]


def test_order_names_the_passes_of_a_cycle():
    with pytest.raises(PipelineError, match=r"first must run before second; second must run before first"):
        order([make("first", before={"second"}), make("second", before={"first"})])


def test_order_moves_what_is_required_forward():
    ordered, moves = order([make("pack", requires={"quantized"}), make("quantize", provides={"quantized"})])
    assert keys(ordered) == ["quantize", "pack"]
    assert moves == ["pack moved after quantize (pack requires quantize)"]


def test_order_refuses_a_requirement_that_no_pass_provides():
    with pytest.raises(PipelineError, match="'pack' requires 'quantized'"):
        order([make("pack", requires={"quantized"}), make("fuse")])


def test_order_is_content_with_one_of_several_providers():
    ordered, moves = order([make("a", provides={"x"}), make("user", requires={"x"}), make("b", provides={"x"})])
    assert keys(ordered) == ["a", "user", "b"] and not moves


def test_order_takes_another_provider_where_the_first_would_need_a_cycle():
    c, f = make("c", requires={"y"}), make("f", provides={"y"})
    d, e = make("d", provides={"y"}, requires={"z"}), make("e", provides={"z"}, after={"c"})
    assert keys(order([c, d, e, f])[0]) == ["f", "c", "e", "d"]
    with pytest.raises(PipelineError, match=r"cannot be ordered: .*requires"):
        order([c, d, e])


def test_order_lets_a_pass_run_again_after_what_it_precedes():
    clean, fuse = make("clean", before={"fuse"}), make("fuse")
    again = ("clean#2", clean[1])
    assert order([clean, fuse, again]) == ([clean, fuse, again], [])
    assert keys(order([fuse, clean, again])[0]) == ["clean", "fuse", "clean#2"]


@st.composite
def declared_passes(draw):
    """Passes p0..pn in any order; constraints point from lower to higher numbers only, so that an order exists."""
    count = draw(st.integers(1, 8))
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    kinds = [draw(st.sampled_from(["before", "after", "requires"])) for _ in chosen]
    declared = [{"before": set(), "after": set(), "requires": set()} for _ in range(count)]
    for (i, j), kind in zip(chosen, kinds, strict=True):
        where, other = (i, j) if kind == "before" else (j, i)
        declared[where][kind].add(f"p{other}")
    passes = [make(f"p{i}", **what) for i, what in enumerate(declared)]
    return draw(st.permutations(passes)), {(f"p{i}", f"p{j}") for i, j in chosen}


@given(declared_passes())
def test_order_is_a_permutation_that_keeps_every_constraint_and_is_stable(drawn):
    passes, constraints = drawn
    ordered, moves = order(passes)
    place = {key: i for i, key in enumerate(keys(ordered))}
    assert sorted(place) == sorted(keys(passes))
    assert all(place[first] < place[then] for first, then in constraints)
    assert bool(moves) == (keys(ordered) != keys(passes))
    assert order(ordered) == (ordered, [])
