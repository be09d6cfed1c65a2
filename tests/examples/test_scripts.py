"""The examples run as a reader would run them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*args):
    return subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, check=True).stdout


def test_demo_writes_python_and_says_what_it_cost_and_gained():
    out = run(EXAMPLES / "demo.py")
    for expected in ("quantize", "class Stack:", "perplexity", "same most likely token", "decode, tokens/s"):
        assert expected in out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_training_writes_a_model_that_llmc_compiles(tmp_path):
    import llmc

    run(EXAMPLES / "tiny_lm" / "train.py", "--out", tmp_path, "--size", "260K", "--cpu-minutes", "0.3")
    assert json.loads((tmp_path / "training.json").read_text())["steps"] > 0
    assert llmc.compile(tmp_path, recipe="int8").generate("def ", max_new_tokens=5).new_tokens == 5
