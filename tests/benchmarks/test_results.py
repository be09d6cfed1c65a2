"""What samples say, from numbers that were chosen, and pages from the samples that are committed."""

import json
from pathlib import Path

import pytest

from benchmarks.results import best_peer, limits_of, rate, ratio, share
from benchmarks.table import page

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
LIMITS = {"read": 10e9, "int8": 1e12, "bfloat16": 1e11}


def run(side, seconds, weights="int4", **changes):
    return {
        "shape": "tiny", "workload": "decode-64", "side": side, "weights": weights, "tokens": 2, "flops": 10**9,
        "bytes": 10**8, "copies": 1, "steps": 4, "seconds": seconds, **changes,
    }  # fmt: skip


def test_a_rate_is_of_the_median_sample():
    assert rate(run("llmc-int4", [0.1, 0.2, 9.0])) == 10


def test_a_ratio_is_of_rounds_not_of_medians():
    found = ratio(run("llmc-int4", [1, 2, 10]), run("torch-bf16", [2, 2, 40]))
    assert (found.median, found.least, found.greatest) == (2, 1, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 0.5), ({"bytes": 0}, 0.05), ({"bytes": 0, "weights": "bf16"}, 0.5)],
    ids=["bytes", "int8 products", "bfloat16 products"],
)
def test_the_share_is_of_what_binds(changes, expected):
    assert share(run("llmc-int4", [0.02], **changes), LIMITS) == pytest.approx(expected)


def test_the_best_peer_has_weights_of_the_same_class():
    runs = [
        run("llmc-int4", [1]), run("llmc-int8", [0.1], "int8"), run("llama.cpp-q4_0", [3]), run("llama.cpp-q8_0", [2], "int8"),
    ]  # fmt: skip
    assert best_peer(runs[0], runs) is runs[2]
    assert best_peer(run("llmc-bf16", [1], "bf16"), runs) is None


def test_a_limit_is_the_greatest_of_the_sitting():
    assert limits_of({"limits": [{"read": 1.0, "int8": 5.0}, {"read": 2.0}]}) == {"read": 2.0, "int8": 5.0}


@pytest.mark.parametrize("samples", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_pages_are_those_of_the_committed_samples(samples):
    assert samples.with_suffix(".md").read_text() == page(json.loads(samples.read_text()))


def test_starts_and_failures_have_their_place():
    start = {
        "shape": "tiny", "side": "llmc-int4", "load_seconds": 0.5, "first_token_seconds": 0.25, "loaded_bytes": 1,
        "peak_bytes": 200e6, "weight_bytes": 50e6, "cache_bytes": 10e6,
    }  # fmt: skip
    machine = {"processor": "a processor", "threads": 2, "date": "today", "commit": "abc"}
    failures = [["tiny", "decode-64", "PyTorch eager bf16", "it broke"]]
    found = page({"machine": machine, "limits": [LIMITS], "runs": [], "starts": [start], "failures": failures})
    assert "| tiny, llmc int4 | 0.50 | 0.25 | 200 | 180 |" in found
    assert "- tiny, decode-64, PyTorch eager bf16: it broke" in found
