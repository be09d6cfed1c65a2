"""The pages a reader learns from: their code runs, their commands work, and what is generated is up to date."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmc.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page, language):
    return [code for kind, code in FENCE.findall((ROOT / page).read_text()) if kind == language]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder where the examples are found, and where what the pages write may lie about."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(page, checkout):
    """From a file, so that errors of capture can name its lines."""
    code = blocks(page, "python")
    assert len(code) >= 5
    (checkout / "page.py").write_text("\n".join(code))
    runpy.run_path(str(checkout / "page.py"), run_name="page")


def test_code_of_the_readme_runs_and_its_refusal_names_node_and_line(checkout, capsys):
    run("README.md", checkout)
    assert re.search(r"node '\w+'\): it mixes positions.*\.\n  at page\.py:\d+ in Shifted\.forward", capsys.readouterr().out)


def test_code_about_passes_runs_from_top_to_bottom(checkout):
    run("docs/writing_a_pass.md", checkout)


@pytest.mark.parametrize("chosen", ["not bundled", pytest.param("", marks=pytest.mark.slow)], ids=["small", "all"])
def test_backend_of_the_guide_has_one_table_and_passes_the_conformance_suite(checkout, chosen):
    code = "\n".join(blocks("docs/writing_a_backend.md", "python"))
    assert code[code.index("def sigmoid") : code.index("NAMES =")].count("\n") <= 150
    (checkout / "numpy_backend.py").write_text(code)
    [command] = blocks("docs/writing_a_backend.md", "sh")
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "-k", chosen]
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command), *options], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 150


def commands(page, monkeypatch):
    """Run the lines of a page's shell code; gives them with what they print.

    The first llmc, and whatever needs a shell, is a process of its own; other commands of llmc are spared the start.
    """
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    printed = {}
    for line in (line for block in blocks(page, "sh") for line in block.splitlines()):
        if printed and line.startswith("llmc ") and not set(line) & set("|<>&;$*"):
            done = CliRunner().invoke(app, shlex.split(line)[1:])
            code, out, err = done.exit_code, done.stdout, done.stderr
        else:
            ran = subprocess.run(line, capture_output=True, text=True, check=False, shell=True, stdin=subprocess.DEVNULL)
            code, out, err = ran.returncode, ran.stdout, ran.stderr
        assert code == 0, f"{line}\n{err}"
        printed[line] = out
    return printed


def test_commands_of_the_readme_work(checkout, monkeypatch):
    printed = commands("README.md", monkeypatch)
    apart = {"encode", "tune"}  # for which a model would have to be fetched; which would change the code of later tests
    known = {command.name for command in app.registered_commands} - apart
    assert {re.search(r"llmc (\w+)", line)[1] for line in printed} == known
    assert all(printed.values())


def test_commands_of_the_page_about_artifacts_work(checkout, monkeypatch):
    printed = commands("docs/artifact.md", monkeypatch)
    listed = {path.name for path in Path("build/tiny").rglob("*")}
    tables = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "artifact.md").read_text(), re.MULTILINE)
    for name in re.findall(r"`([\w./]+)`", " ".join(tables)):
        assert Path(name).name in listed, name
    assert "model.cpp: edited" in printed["llmc rebuild build/tiny"]


def test_commands_of_the_page_about_profiling_work(checkout, monkeypatch):
    commands("docs/profiling.md", monkeypatch)


def test_page_of_the_dialect_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "dialect.py"), run_name="dialect")
    assert (ROOT / "docs" / "dialect.md").read_text() == made["page"](), "run: python docs/dialect.py"


@pytest.mark.timeout(900)  # it lowers every case, and compiles them where they are not in the cache
def test_page_of_backends_is_up_to_date():
    from llmc.conformance.table import page

    command = re.search("python -m llmc.conformance .*", (ROOT / "docs" / "backends.md").read_text())[0]
    names = re.findall(r"--backend (\w+)", command)
    assert names[:2] == ["eager", "cpu"] and (ROOT / "docs" / "backends.md").read_text() == page(names), f"run: {command}"


PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "docs/architecture.md", "docs/artifact.md", "docs/backends.md",
         "docs/profiling.md", "docs/writing_a_backend.md", "docs/writing_a_pass.md")  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)", FENCE.sub("", path.read_text())):
        assert target.startswith("http") or (path.parent / target).exists(), target
