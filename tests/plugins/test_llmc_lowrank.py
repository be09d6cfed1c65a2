"""A pass in a distribution of its own is built, installed, used by its name from the command line, and gone again."""

import json

import pytest

from tests.plugins.conftest import ROOT


def passes(scratch):
    return {entry["name"]: entry for entry in json.loads(scratch.run("llmc.cli.main", "passes", "--json"))["passes"]}


def test_pass_is_used_by_name_once_its_distribution_is_installed(environment, tmp_path):
    scratch = environment("llmc-lowrank")
    before = passes(scratch)
    assert "low-rank" not in before
    scratch.install()
    arguments = ["compile", "examples/tiny_lm/model", "-o", str(tmp_path / "m"), "--backend", "eager", "--json"]
    listed, compiled, refused = scratch.commands(
        ["passes", "--json"],
        [*arguments, "--pass", "low-rank:energy=0.7"],
        [*arguments, "--pass", "low-rank:energy=2"],
    )
    found = {entry["name"]: entry for entry in json.loads(listed.out)["passes"]}
    assert found["low-rank"]["distribution"] == "llmc-lowrank"
    assert [option["name"] for option in found["low-rank"]["options"]] == ["energy", "budget", "skip"]
    (record,) = (record for record in json.loads(compiled.out)["passes"] if record["key"] == "low-rank")
    assert record["matched"] == len(record["notes"]) > 4 and record["weight_bytes_after"] < record["weight_bytes_before"]
    assert refused.code == 2 and "option 'energy'" in refused.err
    scratch.uninstall()
    assert passes(scratch) == before


@pytest.mark.parametrize("word", ["lowrank", "low-rank"])
def test_core_does_not_know_the_plugin(word):
    files = [path for folder in ("llmc", "passes", "backends") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [path for path in files if word in path.read_text(encoding="utf-8")] == []
