"""A backend in a distribution of its own appears when it is installed and disappears when it is uninstalled."""

import json
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "plugins" / "llmc-xla"


@pytest.fixture
def python(tmp_path):
    """An interpreter of an environment of its own that has what this one has, but for the plugin."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    interpreter = tmp_path / "env" / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = Path(subprocess.run([interpreter, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    for item in Path(sysconfig.get_path("purelib")).iterdir():
        if "llmc_xla" not in item.name and item.name != "__pycache__":
            (target / item.name).symlink_to(item)
    return interpreter


def run(python, *arguments):
    done = subprocess.run([python, "-m", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def backends(python):
    return {entry["name"]: entry for entry in json.loads(run(python, "llmc.cli.main", "backends", "--json"))["backends"]}


def test_backend_comes_and_goes_with_its_distribution(python, tmp_path):
    source = shutil.copytree(PLUGIN, tmp_path / "source", ignore=shutil.ignore_patterns("*.egg-info", "build"))
    before = backends(python)
    assert "xla" not in before
    run(python, "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", str(source))
    found = backends(python)
    assert (found["xla"]["distribution"], found["xla"]["available"]) == ("llmc-xla", True), found["xla"]
    assert {name: entry for name, entry in found.items() if name != "xla"} == before
    run(python, "pip", "uninstall", "-q", "-y", "llmc-xla")
    assert backends(python) == before


def test_core_does_not_know_the_plugin():
    files = [path for folder in ("llmc", "passes", "backends") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 100
    assert [path for path in files if "xla" in path.read_text(encoding="utf-8")] == []
