"""The command line in this process, and a compiled model for its commands to read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmc.cli.main import app

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def run() -> Run:
    """`run("passes", "--json")` gives (exit code, stdout, stderr)."""

    def call(*args: object, stdin: str | None = None) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr

    return call


@pytest.fixture(scope="session")
def artifact(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model, compiled with int8."""
    folder = tmp_path_factory.mktemp("compiled") / "model"
    code, out, err = run("compile", MODEL, "-o", folder, "--recipe", "int8", "--compare")
    assert code == 0, err
    assert "quantize" in out and f"saved in {folder}" in out
    assert re.search(r"^pass [a-z-]+, (\d+) of \1$", err, re.MULTILINE), err
    return folder
