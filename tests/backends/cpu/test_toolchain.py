"""The compiler and the cache of what it made."""

import ctypes
import re
import subprocess
import sys

import pytest

from llmc.backends.cpu import toolchain
from llmc.errors import ToolchainError

SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(toolchain.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def answer(path):
    """Of the library, asked in a process of its own: a damaged one kills it."""
    code = f"import ctypes; print(ctypes.CDLL({str(path)!r}).answer())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def script(tmp_path, text):
    path = tmp_path / "compiler"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_library_is_built_once():
    first = toolchain.build(SOURCE)
    stamp = first.stat().st_mtime_ns
    assert toolchain.build(SOURCE) == first and first.stat().st_mtime_ns == stamp and answer(first) == "42"


@pytest.mark.parametrize("damage", ["deleted", "empty", "cut", "changed", "seal"])
def test_damaged_library_is_built_again(damage, cache):
    path = toolchain.build(SOURCE)
    data = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "seal":
        path.with_name(toolchain.SEAL).unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "changed": data[:-9] + b"x" * 9}[damage])
    for _ in range(2):
        assert answer(toolchain.build(SOURCE)) == "42"
    assert [p.name for p in (cache / "cpu").iterdir() if p.is_dir()] == [path.parent.name]


def test_library_in_use_survives_that_its_file_is_replaced():
    path = toolchain.build(SOURCE)
    library = ctypes.CDLL(str(path))
    path.with_name(toolchain.SEAL).write_text("")
    toolchain.build(SOURCE)
    assert library.answer() == 42


def test_two_processes_at_once_both_have_the_library(cache):
    code = f"from llmc.backends.cpu import toolchain; print(toolchain.build({SOURCE!r}))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in both}
    assert len(paths) == 1 and answer(paths.pop()) == "42"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "was not found"),
        ("\x00\x01", "does not run"),
        ("#!/bin/sh\necho version\n", "wrote no library"),
        ("#!/bin/sh\n[ $1 = --version ] || { echo 'omp.h: no such file' >&2; exit 3; }\n", "status 3.*omp.h.*needs OpenMP"),
    ],
    ids=["missing", "broken", "idle", "no OpenMP"],
)
def test_compiler_that_cannot_be_used_is_a_clear_error(text, message, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("CXX", "no-such-compiler" if text is None else script(tmp_path, text))
    with pytest.raises(ToolchainError) as raised:
        toolchain.build(SOURCE)
    assert re.search(message, str(raised.value), re.DOTALL)
    assert not cache.exists() or not [p for p in (cache / "cpu").iterdir() if p.is_dir()]


def test_compiler_may_come_with_arguments(monkeypatch):
    monkeypatch.setenv("CXX", "env g++ -DNUMBER=42")
    assert answer(toolchain.build('extern "C" int answer() { return NUMBER; }')) == "42"


def test_output_of_a_failing_compiler_is_shown():
    with pytest.raises(ToolchainError, match="no_such_name"):
        toolchain.build("int x = no_such_name;")
