"""Results of the compiler on disk, each in a sealed folder of its own under the hash of what it was made from."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from llmc.errors import ToolchainError
from llmc.runtime import cache
from llmc.runtime.cache import CACHE_VARIABLE

SEAL = "seal.sha256"


def cache_folder() -> Path:
    """Where compiled models are kept."""
    return cache.cache_folder() / "cpu"


def kept(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """The file `name` in a folder of the cache; `make(work)` writes it into another folder if it is not there as it was made.

    The folder that it was made in is moved into place when it is complete: of two processes that make the same at once, one's
    result stays and both use it. Raises ToolchainError if the cache cannot be written.
    """
    if intact(folder, name):
        return folder / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
    except OSError as error:
        raise ToolchainError(f"cannot write to the cache folder {folder.parent}: {error}; set {CACHE_VARIABLE}") from error
    try:
        make(work)
        seal(work, name)
        install(work, folder, name)
    except OSError as error:
        raise ToolchainError(f"cannot keep the compiled model in {folder.parent}: {error}; set {CACHE_VARIABLE}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder / name


def fingerprint(file: Path) -> str:
    """Size and SHA-256 of a file."""
    data = file.read_bytes()
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


def seal(folder: Path, name: str) -> None:
    """Write down what the file is, and have both on disk before anybody sees them."""
    (folder / SEAL).write_text(fingerprint(folder / name))
    for written in (name, SEAL):
        with (folder / written).open("rb+") as file:
            os.fsync(file.fileno())


def intact(folder: Path, name: str) -> bool:
    """Whether a folder holds the file that was made there: loading a library that is cut off would kill the process."""
    try:
        return (folder / SEAL).read_text() == fingerprint(folder / name)
    except (OSError, UnicodeDecodeError):
        return False


def install(work: Path, folder: Path, name: str) -> None:
    """Move a finished folder into place, unless another process was first; what stands there damaged is taken away."""
    with (folder.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if intact(folder, name):
            return
        if folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix="damaged-"))
            folder.rename(aside / "model")  # who has it open keeps it
            shutil.rmtree(aside, ignore_errors=True)
        work.rename(folder)
