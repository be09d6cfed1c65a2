"""The conformance suite itself: what passes, what fails, and what it says of backends that refuse something."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.conformance.__main__ import main
from llmc.conformance.subject import available, lacking, registered
from llmc.errors import PluginError
from llmc.plugins.registry import Entry, default
from tests.backends.partial_backends import Absent

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.backends.partial_backends"


def run(*arguments):
    """The exit code and what was printed."""
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=200)
    return done.returncode, done.stdout + done.stderr


def suite(backend, *options):
    return run("pytest", "--pyargs", "llmc.conformance", "--backend", backend, "-n", "0", "-q", *options)


def test_format_that_is_not_read_passes_with_a_reason():
    code, out = suite(f"{MODULE}:Lacking", "-k", "test_formats")
    assert code == 0 and "passed" in out and "skipped" not in out, out


def test_refusal_fails_when_it_is_not_declared():
    code, out = suite(f"{MODULE}:Refusing", "-k", "test_op_agrees and (gelu or silu)")
    assert code == 1 and "nobody has written it" in out
    assert set(re.findall(r"^FAILED .*\[refusing-(.*?)\]", out, re.MULTILINE)) == {"gelu", "gelu-tanh"}


@pytest.mark.parametrize(("backend", "reason"), [
    (f"{MODULE}:Absent", "cannot run here: there is no such device"),
    (f"{MODULE}:Nothing", "AttributeError"),
    ("cpo", "did you mean 'cpu'?"),
])  # fmt: skip
def test_backend_that_is_not_there_is_told_in_a_line(backend, reason, monkeypatch, capsys):
    monkeypatch.setitem(default()._entries, "backends", dict(default()._entries["backends"]))
    monkeypatch.setattr(sys, "argv", ["llmc.conformance", "--backend", backend])
    for code, out in (suite(backend), (main(), capsys.readouterr().err)):
        assert code != 0 and reason in out and "Traceback" not in out


def test_registered_backend_that_cannot_run_is_skipped_with_its_reason_and_a_broken_one_is_an_error(monkeypatch):
    entries = default()._entries["backends"]
    monkeypatch.setitem(entries, "absent", Entry("absent", Absent, "tests", "0"))
    assert "absent" in registered() and "absent" not in available()
    assert "there is no such device" in lacking("absent")
    monkeypatch.setitem(entries, "broken", Entry("broken", "no_such_module:Backend", "tests", "0"))
    with pytest.raises(PluginError, match="no_such_module"):
        available()


def test_page_tells_what_is_refused_and_why():
    code, page = run("llmc.conformance", "--backend", f"{MODULE}:Lacking", "--backend", f"{MODULE}:Refusing")
    assert code == 0 and "| | lacking | refusing |" in page
    assert "| weights in bf16 | as f32 | yes |" in page
    assert re.search(r"\| pointwise: .* \| all \| all but gelu \|", page)
    assert "- lacking: bf16 is not read: its registers know no bfloat16" in page
    assert re.search(r"- refusing: gelu: .*nobody has written it", page)


def test_option_stays_out_of_the_way_of_other_suites(tmp_path):
    (tmp_path / "conftest.py").write_text("def pytest_addoption(parser):\n    parser.addoption('--backend')\n")
    (tmp_path / "test_it.py").write_text("def test_it(pytestconfig):\n    assert pytestconfig.getoption('--backend') == 'x'\n")
    code, out = run("pytest", str(tmp_path), "--rootdir", str(tmp_path), "-c", "/dev/null", "--backend", "x", "-q")
    assert code == 0, out
