"""Which files are hashed again, and which are remembered."""

import hashlib
import os
import time

import pytest

from llmc.runtime import verified
from llmc.runtime.cache import CACHE_VARIABLE
from llmc.runtime.verified import SETTLED, SMALL, Verified

CONTENT = b"x" * SMALL


@pytest.fixture
def hashed(monkeypatch, tmp_path):
    """The files that were read, in order, with a cache folder of the test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    names = []
    original = verified.file_hash
    monkeypatch.setattr(verified, "file_hash", lambda path: names.append(path.name) or original(path))
    return names


@pytest.fixture
def large(tmp_path):
    """A file that was written a while ago."""
    path = tmp_path / "model" / "large.bin"
    path.parent.mkdir()
    write(path, CONTENT)
    return path


def write(path, content, age=SETTLED + 10**9):
    path.write_bytes(content)
    moment = time.time_ns() - age
    os.utime(path, ns=(moment, moment))


def ask(path):
    return Verified(path.parent).sha256(path.name, path)


def test_large_file_is_hashed_once(large, hashed):
    expected = hashlib.sha256(CONTENT).hexdigest()
    assert [ask(large) for _ in range(3)] == [expected] * 3
    assert hashed == ["large.bin"]


@pytest.mark.parametrize("change", ["content", "restored", "time", "file"])
def test_changed_file_is_hashed_again(large, hashed, change):
    before = ask(large)
    if change == "content":
        write(large, b"y" * SMALL, age=SETTLED + 2 * 10**9)
    elif change == "restored":
        write_time = large.stat().st_mtime_ns
        large.write_bytes(b"y" * SMALL)
        os.utime(large, ns=(write_time, write_time))
    elif change == "time":
        os.utime(large, ns=(0, 0))
    else:
        write(large.with_name("other"), b"y" * SMALL)
        os.utime(large.with_name("other"), ns=(large.stat().st_atime_ns, large.stat().st_mtime_ns))
        large.with_name("other").replace(large)
    assert (ask(large) == before) == (change == "time")
    assert len(hashed) == 2


def test_small_file_and_one_just_written_are_hashed_every_time(large, hashed):
    """A change within the tick of the clock would have the same time."""
    small = large.with_name("small")
    write(small, CONTENT[:-1])
    write(large, CONTENT, age=0)
    for path in (small, large, small, large):
        ask(path)
    assert hashed == ["small", "large.bin"] * 2


@pytest.mark.parametrize("content", ["", "[", "[]", '{"large.bin": 5}', '{"large.bin": []}', "\x00"])
def test_damaged_memory_is_no_memory(large, hashed, tmp_path, content):
    expected = ask(large)
    [file] = (tmp_path / "cache" / "verified").iterdir()
    file.write_text(content)
    assert ask(large) == expected and len(hashed) == 2


def test_cache_folder_that_cannot_be_written_changes_nothing(large, hashed, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert ask(large) == ask(large)
    assert len(hashed) == 2
