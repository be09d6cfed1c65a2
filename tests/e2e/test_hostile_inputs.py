"""What is given may be damaged, absurd or malicious: an error line that names it, exit code 2, nothing half-written."""

from __future__ import annotations

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmc.backends.cpu.store import SEAL, cache_folder
from llmc.cli.main import app
from llmc.plugins.registry import default
from tests.e2e.hostile import MODEL, config, copy, plugin
from tests.e2e.hostile_artifacts import ARTIFACTS
from tests.e2e.hostile_models import CHECKPOINTS, CONFIGS, SENTENCES, TOKENIZERS
from tests.e2e.hostile_requests import EVIL, INPUTS, MACHINES, OUTPUTS, PLUGINS, RECIPES

CASES = {
    **CHECKPOINTS,
    **CONFIGS,
    **SENTENCES,
    **TOKENIZERS,
    **RECIPES,
    **OUTPUTS,
    **MACHINES,
    **PLUGINS,
    **INPUTS,
    **ARTIFACTS,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The bundled model cut to its first layer, `m`, and what was compiled of it, `a`, beside a cache for the cases."""
    folder = tmp_path_factory.mktemp("hostile")
    copy("m", MODEL, folder)
    config(num_hidden_layers=1)(folder)
    done = CliRunner().invoke(app, ["compile", str(folder / "m"), "-o", str(folder / "a"), "--recipe", "int8"])
    assert done.exit_code == 0, done.stderr
    for kept in ("kernels", "headers"):  # for cases that compile the same again
        unfinished = shutil.ignore_patterns("building-*", "damaged-*")
        shutil.copytree(cache_folder() / kept, folder / "cache" / "cpu" / kept, ignore=unfinished)
    return folder


def snapshot(folder: Path, cache: Path) -> dict[str, object]:
    """Every file with its length and time of change; of a cache nothing that is complete, nor locks and notes."""
    found = {}
    for parent, folders, files in os.walk(folder):
        within = Path(parent).is_relative_to(cache)
        sealed = SEAL in files or Path(parent).name == "verified"
        for name in (*folders, *files):
            path = Path(parent, name)
            complete = sealed or name in folders or name == "lock"
            if complete and (within or path == cache) and not name.startswith((".", "building-", "damaged-")):
                continue
            facts = path.lstat()
            found[str(path)] = name in folders or (facts.st_size, facts.st_mtime_ns)
    return found


def small_files() -> None:
    """No file may grow beyond 4 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))


@pytest.mark.parametrize("name", CASES)
def test_hostile_input_is_refused_in_a_line_and_leaves_nothing_behind(name, base, tmp_path, monkeypatch):
    case = CASES[name]
    for copied in case.copies:
        copy(copied, base / copied, tmp_path)
    case.prepare(tmp_path)
    places = {"folder": tmp_path, "model": base / "m", "m": tmp_path / "m", "a": tmp_path / "a"}
    args = [word.format(**places) for word in shlex.split(case.command)]
    cache = (base if "a" in case.copies else tmp_path) / "cache"
    environment = {"LLMC_CACHE": str(cache), **{key: text.format(**places) for key, text in case.environment.items()}}
    before = snapshot(tmp_path, cache), snapshot(base, cache)
    if case.outside:
        limit = small_files if name == "cache that is full" else None
        code, _, err = outside(args, case.stdin, environment, tmp_path, limit)
    else:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, args, input=case.stdin.decode())
        assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
        code, err = done.exit_code, done.stderr
    told = [line for line in err.splitlines() if line.startswith("llmc: error: ")]
    assert code == 2 and len(told) == 1 and "Traceback" not in err, (code, err)
    assert re.search(case.error, told[0]), told[0]
    assert (snapshot(tmp_path, cache), snapshot(base, cache)) == before


def outside(args, stdin, environment, folder, limit):
    """The command in a process of its own, where a plugin of the case may be installed."""
    path = os.pathsep.join([str(folder / "site"), str(Path(__file__).resolve().parents[2])])
    done = subprocess.run(
        [sys.executable, "-m", "llmc.cli.main", *args],
        input=stdin,
        capture_output=True,
        check=False,
        preexec_fn=limit,
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def test_plugin_that_raises_at_import_hinders_nobody_else(tmp_path):
    plugin(EVIL)(tmp_path)
    code, out, err = outside(["passes"], b"", {}, tmp_path, None)
    assert code == 0 and "quantize" in out and "llmc: warning: plugin 'evil-entry' of evil is skipped" in err


def test_table_is_long_enough_and_each_kind_of_input_is_in_it():
    assert len(CASES) >= 60 and default().entries("passes")
