"""A picture of samples."""

import pytest

from benchmarks.plot import plot
from tests.benchmarks.test_results import LIMITS, run


@pytest.mark.parametrize("sides", [["llmc-int4"], ["llmc-int4", "llama.cpp-q4_0", "torch-bf16"]], ids=len)
def test_every_side_is_named_in_the_picture(sides, tmp_path):
    data = {"limits": [LIMITS], "runs": [run(side, [0.1, 0.2]) for side in sides]}
    plot(data, tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert text.count("<svg") == 1
    assert all(f"<!-- {label} -->" in text for label in ["llmc int4", "tiny, decode-64: tokens/s"])
    assert ("<!-- llama.cpp Q4_0 (pure) -->" in text) == ("llama.cpp-q4_0" in sides)
