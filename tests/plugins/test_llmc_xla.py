"""A backend in a distribution of its own appears when it is installed and disappears when it is uninstalled."""

import json
import re

from tests.plugins.conftest import ROOT


def backends(scratch):
    return {entry["name"]: entry for entry in json.loads(scratch.run("llmc.cli.main", "backends", "--json"))["backends"]}


def test_backend_comes_and_goes_with_its_distribution(environment):
    scratch = environment("llmc-xla")
    before = backends(scratch)
    assert "xla" not in before
    scratch.install()
    found = backends(scratch)
    assert (found["xla"]["distribution"], found["xla"]["available"]) == ("llmc-xla", True), found["xla"]
    assert {name: entry for name, entry in found.items() if name != "xla"} == before
    scratch.uninstall()
    assert backends(scratch) == before


def test_core_does_not_know_the_plugin():
    files = [path for folder in ("llmc", "passes", "backends") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    named = re.compile(r"xla(?!bel)", re.IGNORECASE)  # axes have an xlabel
    assert [path for path in files if named.search(path.read_text(encoding="utf-8"))] == []
