"""What llmc is held to, from numbers that were chosen."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks.summary import page
from benchmarks.targets import TARGETS, targets_of
from tests.benchmarks.test_results import LIMITS, run

MACHINE = {"processor": "a processor", "threads": 2, "date": "today", "commit": "abc"}


def sitting(runs, starts=()):
    return {"machine": MACHINE, "limits": [LIMITS], "runs": runs, "starts": list(starts), "failures": []}


def test_what_misses_is_bold_and_counted():
    slow, fast = run("llmc-int4", [0.02, 0.02, 0.02]), run("llmc-int8", [0.01, 0.01, 0.01], "int8")
    peers = [run("llama.cpp-q4_0", [0.02, 0.03, 0.04]), run("llama.cpp-q8_0", [0.01] * 3, "int8"), run("torch-bf16", [0.001])]
    start = {
        "shape": "tiny", "side": "llmc-int4", "load_seconds": 0.5, "first_token_seconds": 1.0, "peak_bytes": 200e6,
        "weight_bytes": 50e6, "cache_bytes": 29e6,
    }  # fmt: skip
    lines = page([sitting([slow, fast, *peers], [start])]).splitlines()
    assert lines[0] == "a processor, 2 threads, today, commit abc"
    assert "| decode-64, tiny | llmc int4 | **50%** | 85% | 1.50 (1.00..2.00) llama.cpp Q4_0 (pure) | 1.4 |" in lines
    assert "| decode-64, tiny | llmc int8 | 100% | 85% | **1.00** (1.00..1.00) llama.cpp Q8_0 | 1.4 |" in lines
    assert "| decode-4096, tiny | llmc int8 | **not measured** | 75% |  |  |" in lines
    assert "| tiny, llmc int4 | **121.0** | 0.50 |" in lines
    assert lines[-1] == "12 of these lines miss something: bold."


def test_what_any_of_several_sittings_measured_is_told_of_each_that_did():
    ours, peer = run("llmc-int4", [0.01] * 3), run("llama.cpp-q4_0", [0.02] * 3)
    other = run("llmc-int4", [0.01], workload="decode-4096")
    lines = page([sitting([ours, peer]), sitting([other]), sitting([ours, peer])]).splitlines()
    assert len([line for line in lines if line.startswith("| decode-64, tiny | llmc int4 |") and "2.00" in line]) == 2
    assert len([line for line in lines if line.startswith("| decode-4096, tiny | llmc int4 |") and "not" not in line]) == 1
    assert len([line for line in lines if line.startswith("| decode-64, tiny | llmc int8 |")]) == 1


def test_all_that_is_reached_is_said_so():
    runs = [
        run("llmc-int8", [0.01], "int8", shape="minilm-l6", workload="encode-64"),
        run("openvino-encoder-int8", [0.02], "int8", shape="minilm-l6", workload="encode-64"),
        run("onnxruntime-int8", [0.03], "int8", shape="minilm-l6", workload="encode-64"),
    ]
    text = page([sitting(runs)])
    assert "2.00 (2.00..2.00) OpenVINO int8 | 1.5 |" in text and text.endswith("Nothing is missed.\n")


def test_small_shapes_are_held_to_the_same_as_those_they_stand_for():
    assert [(t.workload, t.side) for t in targets_of("tiny")] == [
        (t.workload, t.side) for t in TARGETS if t.shape == "smollm2-135m"
    ]
    assert targets_of("bert-base") == []


def test_judged_writes_a_summary_after_each_shape(tmp_path, monkeypatch):
    asked = []

    def sat(home, shapes, sides, work, pairs, threads, starts, target):
        asked.append((target.name, work))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return sitting([run("llmc-int4", [0.02], shape=shapes[0].name)])

    monkeypatch.setattr(command, "sat", sat)
    CliRunner().invoke(command.app, ["judged", "--home", str(tmp_path), "--out", str(tmp_path)])
    assert asked == [
        ("smollm2-135m", ["decode-64", "prefill-512", "decode-64x16", "decode-4096"]),
        ("llama-3.2-1b", ["decode-64", "prefill-512", "decode-64x16"]),
        ("minilm-l6", ["encode-64"]),
    ]
    written = (tmp_path / "judged.md").read_text()
    assert "smollm2-135m" in written and "llama-3.2-1b" in written and "minilm-l6" not in written


def test_judged_refuses_a_shape_with_nothing_to_hold_to(tmp_path):
    done = CliRunner().invoke(command.app, ["judged", "--home", str(tmp_path), "--out", str(tmp_path), "--shape", "bert-base"])
    assert done.exit_code == 2 and "nothing is held to" in done.output


def test_the_summary_is_made_of_files_too(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(sitting([run("llmc-int4", [0.02])])))
    done = CliRunner().invoke(command.app, ["summary", str(tmp_path / "x.json")])
    assert done.exit_code == 0 and "**50%**" in done.output


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t.shape}-{t.workload}-{t.side}")
def test_each_target_holds_llmc_to_something(target):
    assert target.side.startswith("llmc-") and (target.share or target.ratio) and bool(target.ratio) == bool(target.peers)
