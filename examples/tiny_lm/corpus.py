"""The training and held-out text: the source of the Python standard library."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

HELD_OUT = (
    "argparse.py",
    "calendar.py",
    "csv.py",
    "heapq.py",
    "json/decoder.py",
    "json/encoder.py",
    "queue.py",
    "sched.py",
    "shelve.py",
    "textwrap.py",
    "zipapp.py",
)
"""Modules kept from training, tests of theirs included; together the file `heldout.txt`."""

TABLES = ("encodings", "pydoc_data", "site-packages", "idlelib/Icons", "test/cjkencodings", "test/crashers")
"""Folders that hold data rather than program text."""

MAX_FILE_BYTES = 400_000


def standard_library() -> Path:
    """The folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def held_out(root: Path) -> Iterator[str]:
    """The text of each held-out module."""
    for name in HELD_OUT:
        yield (root / name).read_text(encoding="utf-8")


def training(root: Path) -> Iterator[str]:
    """The text of every other module, each once, in a fixed order; tables of data are left out."""
    stems = {Path(name).stem for name in HELD_OUT}
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        module = path.stem.removeprefix("test_")
        if name.startswith(TABLES) or name in HELD_OUT or module in stems:
            continue
        if any(part in ("json", "test_json") for part in path.parts) or path.stat().st_size > MAX_FILE_BYTES:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # test data in other encodings
            continue
        if text and text.isascii() and text not in seen:
            seen.add(text)
            yield text


