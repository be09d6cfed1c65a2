"""The whole of a sitting, on a shape so small that nothing takes long."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(*words):
    return subprocess.run([sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return str(tmp_path_factory.mktemp("home"))


def test_sides_take_turns_and_samples_are_written(home, tmp_path):
    done = bench(
        "run", "--home", home, "--shape", "tiny", "--side", "llmc-int8", "--side", "torch-bf16",
        "--workload", "mixed", "--pairs", "2", "--threads", "1",
        "--out", str(tmp_path), "--name", "x",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "x.json").read_text())
    assert data["failures"] == []
    assert [(run["workload"], run["side"]) for run in data["runs"]] == [("mixed", "llmc-int8"), ("mixed", "torch-bf16")]
    assert all(len(run["seconds"]) == 2 and min(run["seconds"]) > 0 and run["faults"] >= 0 for run in data["runs"])
    assert all(run["bytes"] > 0 and run["flops"] > 0 for run in data["runs"])
    assert "llmc int8" in done.stdout


def test_a_peer_that_is_not_installed_is_named_in_the_results(home, tmp_path):
    done = bench(
        "run", "--home", home, "--shape", "tiny", "--side", "llama.cpp-q4_0", "--workload", "decode-8",
        "--threads", "1", "--out", str(tmp_path), "--name", "x",
    )  # fmt: skip
    [failure] = json.loads((tmp_path / "x.json").read_text())["failures"]
    assert done.returncode == 0 and failure[2] == "llama.cpp Q4_0 (pure)" and "python -m benchmarks install" in failure[3]


@pytest.mark.parametrize(("option", "name"), [("--shape", "huge"), ("--side", "abacus"), ("--workload", "juggle")])
def test_what_there_is_not_is_refused_by_name(option, name, tmp_path):
    done = bench("run", "--out", str(tmp_path), option, name)
    assert done.returncode == 2 and name in done.stderr
