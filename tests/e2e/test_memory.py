"""What compiling takes of memory grows with neither the size of the model nor that of its checkpoint."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"


def peak(layers):
    """Parameters in millions and MB of anonymous memory at the peak, of a model of so many layers of 15 million."""
    options = ["--layers", str(layers), "--width", "1024", "--vocab", "32000"]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    size, memory = re.search(r"(\d+)M parameters.* peak of (\d+) MB", done.stdout).groups()
    return int(size), int(memory)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_eight_more_layers_take_less_memory_than_their_weights():
    (small, before), (large, after) = peak(2), peak(10)
    assert large - small > 100
    assert after < 1200 and after - before < large - small  # a byte each; the checkpoint has two
