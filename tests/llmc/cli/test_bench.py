"""llmc bench, briefly: the figures depend on the machine, their relations do not."""

import json

import pytest

SHORT = ("--prompt-tokens", 16, "--new-tokens", 4, "--runs", 2)


def test_bench_prints_predicted_beside_achieved(run, artifact):
    code, out, err = run("bench", artifact, *SHORT, "--json")
    assert code == 0, err
    data = json.loads(out)
    for phase in ("prefill", "decode"):
        row = data[phase]
        assert row["share"] == pytest.approx(row["tokens_per_second"] / row["predicted"]) and row["gb_per_second"] > 0
    assert data["limits"]["age_hours"] < 12 and data["load_seconds"] > 0 and data["peak_memory_mb"] > 10
    code, out, _ = run("bench", artifact, *SHORT)
    assert code == 0 and "predicted at most" in out and "hours ago (--measure does it again)" in out


def test_bench_without_a_compiler_tells_that_limits_are_not_known(run, artifact, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("LLMC_CACHE", str(tmp_path))
    code, out, _ = run("bench", artifact, *SHORT)
    assert code == 0 and "the machine's limits are not known" in out and "no-such-compiler" in out


def test_bench_beyond_the_context_is_refused(run, artifact):
    code, _, err = run("bench", artifact, "--prompt-tokens", 500, "--new-tokens", 20)
    assert code == 2 and "llmc: error: prompt and new tokens are 520 together; the model's context has 512" in err
