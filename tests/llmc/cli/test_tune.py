"""llmc tune."""

import json

import pytest

from llmc.backends.cpu import cuts, tuning


def test_backend_without_choices_says_so(run):
    assert run("tune", "--backend", "eager")[:2] == (0, "backend 'eager' has nothing to tune\n")
    assert json.loads(run("tune", "--backend", "eager", "--json")[1]) == {"backend": "eager", "trials": []}


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Two choices, tried once each, whose result is kept apart."""
    monkeypatch.setattr(tuning, "SHARES", ((1, 1), (1 / 3, 1 / 4)))
    monkeypatch.setattr(tuning, "ROUNDS", 2)
    monkeypatch.setattr(cuts, "_file", lambda target: tmp_path / f"{target.name}.json")


def test_choices_are_shown_and_the_one_that_is_used_is_marked(run, few):
    code, out, err = run("tune")
    assert code == 0 and "(by the size of the cache)" in out and "int4" in out and "* is used from now on" in out
    assert [line.strip()[0] for line in out.splitlines() if "KB of rows" in line].count("*") == 1 and "trying cuts" in err
    trials = json.loads(run("tune", "--json")[1])["trials"]
    assert [trial["chosen"] for trial in trials].count(True) == 1 and trials[0]["speedups"] == {"int8": 1.0, "int4": 1.0}


def test_target_that_does_not_run_here_is_refused(run):
    code, out, err = run("tune", "--target", "none")
    assert (code, out) == (2, "") and "the cpu backend makes no code for 'none'" in err
