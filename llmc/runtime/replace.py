"""Folders replaced at once: whoever looks sees the old one or the new one, and a crash loses neither."""

from __future__ import annotations

import ctypes
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder beside the target, which takes its place at the end, or goes without a trace if something fails.

    Where the system cannot exchange two folders in one step, the old one is renamed out of the way first; `recover` puts it
    back if the process was killed just then.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.getpid()}-{secrets.token_hex(4)}"
    made, old = (target.with_name(f".{target.name}.{kind}-{mark}") for kind in ("new", "old"))
    made.mkdir()
    try:
        yield made
        if target.exists():
            if exchange(made, target):
                return
            target.rename(old)
        try:
            made.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Give two folders each other's name in one step, by Linux's renameat2; False where that is not possible."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def recover(target: Path) -> None:
    """Put back the newest folder that `replacing` had renamed out of the way when it was killed, if the target is missing."""
    if target.exists():
        return
    left = list(target.parent.glob(f".{glob.escape(target.name)}.old-[0-9]*-????????"))
    if left:
        max(left, key=lambda path: path.stat().st_mtime).rename(target)
