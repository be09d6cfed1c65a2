"""Scratch environments that plugins are built and installed into."""

import json
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = """
import json, sys
from typer.testing import CliRunner
from llmc.cli.main import app
done = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
print(json.dumps([(one.exit_code, one.stdout, one.stderr) for one in done]))
"""


class Done(NamedTuple):
    """What a command of llmc ended with and printed."""

    code: int
    out: str
    err: str


class Environment:
    """An environment of its own that has what this one has, but for one plugin."""

    def __init__(self, folder: Path, plugin: str) -> None:
        self.folder, self.plugin, module = folder, plugin, plugin.replace("-", "_")
        venv.create(folder / "env", with_pip=False, symlinks=True)
        self.python = folder / "env" / "bin" / "python"
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        target = Path(subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
        for item in Path(sysconfig.get_path("purelib")).iterdir():
            if module not in item.name and item.name != "__pycache__":
                (target / item.name).symlink_to(item)

    def run(self, *arguments: str) -> str:
        """What `python -m ...` prints."""
        done = subprocess.run([self.python, "-m", *arguments], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commands(self, *commands: list[str]) -> list[Done]:
        """Several commands of llmc in one process, which saves its start."""
        command = [self.python, "-c", COMMANDS, json.dumps(commands)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
        return [Done(*one) for one in json.loads(printed.splitlines()[-1])]

    def install(self) -> None:
        """Build the plugin from a copy of its sources, and install it."""
        ignored = shutil.ignore_patterns("*.egg-info", "build")
        source = shutil.copytree(ROOT / "plugins" / self.plugin, self.folder / "source", ignore=ignored)
        self.run("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", str(source))

    def uninstall(self) -> None:
        self.run("pip", "uninstall", "-q", "-y", self.plugin)


@pytest.fixture
def environment(tmp_path):
    """Makes the environment for a plugin."""
    return lambda plugin: Environment(tmp_path, plugin)
