"""What a process pays for a saved model: weights that are mapped, read once in the life of a file, and little besides."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import llmc

BUNDLED = Path(__file__).resolve().parents[2] / "examples" / "tiny_lm" / "model"
MOST_BESIDES = 120e6
"""Bytes at the peak besides packed weights and cache."""

PROBE = """
import json, sys
import numpy
import llmc

def read():
    return int(next(line.split()[1] for line in open("/proc/self/io") if line.startswith("rchar")))

def resident():  # bytes of the mapped weights that are in this process's memory
    lines, inside = iter(open("/proc/self/smaps")), False
    for line in lines:
        words = line.split()
        if not words[0].endswith(":"):
            inside = line.rstrip().endswith("weights.bin")
        elif inside and words[0] == "Rss:":
            return int(words[1]) * 1024

before = read()
model = llmc.load(sys.argv[1])
told = {"read": read() - before, "mapped": resident(), "weights": int(model.executable.weights.size)}
ids = [i % 500 for i in range(model.info.max_context - 64)]
result = model.generate(ids, max_new_tokens=64)
told["cache"] = model.executable.block_bytes * -(-(len(ids) + 64) // 32)
told["peak"] = 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
told["used"] = resident()
told["modules"] = [name for name in ("torch", "transformers", "networkx", "safetensors") if name in sys.modules]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What two processes, one after the other, tell of a saved model that they load and generate with."""
    home = tmp_path_factory.mktemp("startup")
    llmc.compile(BUNDLED, recipe="fuse", threads=1).save(home / "m")
    for path in (home / "m").rglob("*"):
        os.utime(path, (1e9, 1e9))  # a file that has just been written is hashed again by the next process
    environment = {**os.environ, "LLMC_CACHE": str(home / "cache")}
    command = [sys.executable, "-c", PROBE, str(home / "m")]
    outputs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    return [json.loads(output) for output in outputs]


def test_weights_are_read_by_the_first_load_alone_and_to_be_hashed(runs):
    first, second = runs
    assert first["read"] - second["read"] > 0.9 * first["weights"]


def test_loaded_weights_are_mapped_and_untouched_until_they_are_used(runs):
    for told in runs:
        assert told["mapped"] == 0 and told["used"] > 0.9 * told["weights"]


def test_peak_while_generating_is_weights_cache_and_little_more(runs):
    for told in runs:
        assert told["peak"] < told["weights"] + told["cache"] + MOST_BESIDES


def test_generating_imports_nothing_that_compiling_needs(runs):
    assert [told["modules"] for told in runs] == [[], []]
