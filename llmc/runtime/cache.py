"""The user's cache folder: what can be made again, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "LLMC_CACHE"


def cache_folder() -> Path:
    """`$LLMC_CACHE`, or `llmc` in the user's cache folder. It need not exist."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmc"
