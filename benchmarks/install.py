"""Virtual environments and sources of peers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a command to its end; what it prints is shown. Raises SystemExit if it fails."""
    words = [str(word) for word in command]
    print("+", " ".join(words), flush=True)
    if subprocess.run(words, cwd=cwd).returncode:
        raise SystemExit(f"this command failed: {' '.join(words)}")


def environment(folder: Path, *steps: Sequence[str]) -> Path:
    """A virtual environment with packages installed in these steps; its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", folder)
    for packages in steps:
        run(python, "-m", "pip", "install", "--quiet", *packages)
    return python
