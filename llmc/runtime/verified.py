"""Which files of an artifact were hashed before: gigabytes of weights are read once, not at every start."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmc.runtime.cache import cache_folder

SMALL = 1 << 20
"""Smaller files are hashed every time."""

SETTLED = 2 * 10**9
"""Nanoseconds after which a change of a file cannot carry the same time stamp: the coarsest that file systems keep."""


class Verified:
    """Remembers, for the files of a folder, the hash that each had with its inode, size and times of writing and of change.

    Lives in the user's cache folder; where that cannot be read or written, every file is hashed every time.
    """

    def __init__(self, folder: Path) -> None:
        self._known: dict[str, Any] = {}
        self._file: Path | None = None
        try:
            name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
            self._file = cache_folder() / "verified" / f"{name}.json"
            known = json.loads(self._file.read_text())
        except (OSError, ValueError, RuntimeError):  # RuntimeError: this user has no home
            return
        self._known = known if isinstance(known, dict) else {}

    def sha256(self, name: str, path: Path) -> str:
        """The hash of the folder's file of a name: remembered, or computed now."""
        status = path.stat()
        stamp = [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
        stamp += [status.st_ctime_ns]  # which nobody sets back
        known = self._known.get(name)
        if status.st_size >= SMALL and isinstance(known, list) and known[:-1] == stamp:
            return str(known[-1])
        found = file_hash(path)
        if status.st_size >= SMALL and time.time_ns() - status.st_mtime_ns > SETTLED:
            self._remember(name, [*stamp, found])
        return found

    def _remember(self, name: str, entry: list[Any]) -> None:
        self._known[name] = entry
        if self._file is None:
            return
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known))
            temporary.replace(self._file)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
