"""The pages a reader learns from: their code runs, their commands work, and what is generated is up to date."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_commands_of_the_readme_work(checkout):
    lines = [line for block in blocks("README.md", "sh") for line in block.splitlines()]
    assert {shlex.split(line)[1] for line in lines} == {
        "compile", "generate", "inspect", "eval", "bisect", "passes", "backends", "plugins",
    }  # fmt: skip
    for line in lines:
        command = [str(Path(sys.executable).with_name("llmc")), *shlex.split(line)[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stdout, f"{line}\n{done.stderr}"


def test_page_of_the_dialect_is_up_to_date():
    made = runpy.run_path(str(ROOT / "docs" / "dialect.py"), run_name="dialect")
    assert (ROOT / "docs" / "dialect.md").read_text() == made["page"](), "run: python docs/dialect.py"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/writing_a_pass.md",
                                  "benchmarks/README.md"])  # fmt: skip
def test_links_lead_somewhere(page):
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert target.startswith("http") or (path.parent / target).exists(), target
