"""Sentences of mixed length in rectangles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.peers.padded import PaddedEncoder, rectangles
from benchmarks.workloads import workload


class Counting(PaddedEncoder):
    vocab, seconds = 50, 0.0
    build = load = None

    def forward(self, copy, ids, mask):
        self.seconds += 1 + (ids.size > 500) * ids.size  # whatever is called often, or is large

    def forward_apart(self, copy, rectangles):
        began = self.seconds
        for rectangle in rectangles:
            self.forward(copy, *rectangle)
        self.seconds = began + self.apart_takes * (self.seconds - began)


@pytest.mark.parametrize(("apart_takes", "ending"), [(2.0, ""), (0.5, ", on each thread")])
def test_sentences_are_read_as_many_at_a_time_as_is_fastest(apart_takes, ending, monkeypatch):
    engine = Counting()
    engine.apart_takes = apart_takes
    monkeypatch.setattr("benchmarks.peers.padded.time.perf_counter", lambda: engine.seconds)
    engine.prepare(workload("encode-64"), 1)
    assert {len(ids) for ids, _ in engine.rectangles} == {1}
    assert engine.tune() == f"4 sentences at a time{ending}"
    assert {len(ids) for ids, _ in engine.rectangles} == {4} and all(ids.dtype == np.int64 for ids, _ in engine.rectangles)


@given(count=st.integers(1, 70), size=st.integers(1, 33))
def test_every_sentence_is_in_one_rectangle_with_as_little_padding_as_sorting_gives(count, size):
    work = workload(f"encode-{count}")
    made = rectangles(work, size, vocab=50)
    lengths = [int(row.sum()) for _, mask in made for row in mask]
    assert lengths == sorted(work.prompts)
    assert all(ids.shape == mask.shape and len(ids) <= size and mask.any(0).all() for ids, mask in made)
    assert all(((ids > 0) == (mask > 0)).all() for ids, mask in made)
