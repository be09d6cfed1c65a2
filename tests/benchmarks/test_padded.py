"""Sentences of mixed length in rectangles."""

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers.padded import rectangles
from benchmarks.workloads import workload


@given(count=st.integers(1, 70), size=st.integers(1, 33))
def test_every_sentence_is_in_one_rectangle_with_as_little_padding_as_sorting_gives(count, size):
    work = workload(f"encode-{count}")
    made = rectangles(work, size, vocab=50)
    lengths = [int(row.sum()) for _, mask in made for row in mask]
    assert lengths == sorted(work.prompts)
    assert all(ids.shape == mask.shape and len(ids) <= size and mask.any(0).all() for ids, mask in made)
    assert all(((ids > 0) == (mask > 0)).all() for ids, mask in made)
