"""The folder where peers are installed and models are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "LLMC_BENCH_HOME"


def default_home() -> Path:
    """LLMC_BENCH_HOME, or a folder in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(VARIABLE) or Path(cache) / "llmc-bench")


def own_digest() -> str:
    """Of llmc's sources and the recipes here: a model that others compiled is not used."""
    digest = hashlib.sha256()
    for folder in ("llmc", "passes", "backends"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".h", ".c", ".cpp") and path.is_file():
                digest.update(path.read_bytes())
    for path in sorted((ROOT / "benchmarks").glob("*.yaml")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
