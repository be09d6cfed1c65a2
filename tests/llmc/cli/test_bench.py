"""llmc bench, briefly: the figures depend on the machine, their relations do not."""

import json
import sys

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


def test_profile_shows_where_the_time_goes(run, artifact):
    code, out, err = run("bench", artifact, *SHORT, "--profile")
    assert code == 0, err
    for text in ("prefill: 16 tokens after 0", "decode: 1 token after 16", "linear_w8a8", "waiting", "outside", "share of it"):
        assert text in out
    assert "model.layers.*.mlp.down_proj" in out and "…" not in out
    assert max(map(len, out.splitlines())) <= 160


def test_profile_as_json_has_every_part(run, artifact):
    code, out, err = run("bench", artifact, *SHORT, "--profile", "--json")
    assert code == 0, err
    data = json.loads(out)
    for phase in (data["prefill"], data["decode"]):
        assert sum(part["seconds"] for part in phase["parts"]) == pytest.approx(phase["seconds"])
        assert sum(part["work"]["bytes"] for part in phase["parts"]) == pytest.approx(phase["work"]["bytes"])
        assert {part["layer"] for part in phase["parts"]} == {None, 0, 1, 2}
    assert data["limits"]["giga_per_second"]["read"]["best"] > 0


def test_profile_of_another_backend_is_refused_by_its_name(run, artifact):
    code, out, err = run("bench", artifact, *SHORT, "--profile", "--backend", "eager")
    assert code == 2 and out == "" and "backend 'eager' cannot tell where the time of a step goes" in err


def test_profile_is_drawn(run, artifact, tmp_path):
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / "profile.png", tmp_path / "profile.svg"]
    for picture in pictures:
        code, _, err = run("bench", artifact, *SHORT, "--profile", "--plot", picture)
        assert code == 0, err
    png = pictures[0].read_bytes()
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and width > 1000 and height > 800
    drawn = pictures[1].read_text()  # text is drawn as paths, with what it says in comments
    for text in ("prefill of 16 tokens", "decode of a token after 16", "linear: linear_w8a8", "outside", "GB/s"):
        assert f"<!-- {text}" in drawn or text in drawn, text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--plot", "p.png"], "add --profile"),
        (["--profile", "--plot", "p.txt"], ".png"),
        (["--profile", "--plot", "nowhere/p.png"], "there is no folder nowhere"),
    ],
)
def test_picture_that_cannot_be_written_is_refused_before_anything_is_measured(run, artifact, options, expected):
    code, out, err = run("bench", artifact, *options)
    assert code == 2 and out == "" and expected in err and "run" not in err


def test_picture_without_matplotlib_tells_what_to_install(run, artifact, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = run("bench", artifact, "--profile", "--plot", tmp_path / "p.png")
    assert code == 2 and out == "" and "llmc[plot]" in err and not list(tmp_path.iterdir())
