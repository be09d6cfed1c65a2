"""The manifest of an artifact: what it is, what runs it, and size and hash of every file, so that damage is found before use.

The hashes find damage. They do not find malice: who can change a file can change the manifest, and the library of an artifact
is code, so an artifact is to be trusted like a program.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmc.errors import ArtifactError
from llmc.runtime.processor import lacking
from llmc.runtime.verified import Verified, file_hash

FORMAT, VERSION = "llmc", 2
MANIFEST_FILE = "manifest.json"
REBUILD = "llmc rebuild"


@dataclass(frozen=True)
class Target:
    """What compiled code in the artifact runs on.

    name: of the instruction set, by the backend. machine, needs: the processor ("x86_64") and the extensions that it must have.
    """

    name: str
    machine: str
    needs: tuple[str, ...]

    @staticmethod
    def from_json(data: Any) -> Target:
        """The target of `asdict`. Raises ValueError if it is malformed."""
        if not isinstance(data, dict) or data.keys() != {"name", "machine", "needs"} or not isinstance(data["needs"], list):
            raise ValueError("'target' should be an object of 'name', 'machine' and 'needs'")
        if not all(isinstance(text, str) for text in (data["name"], data["machine"], *data["needs"])):
            raise ValueError("'target' should hold texts")
        return Target(data["name"], data["machine"], tuple(data["needs"]))


@dataclass(frozen=True)
class Manifest:
    """info: `ModelInfo.to_json`. records: of the passes, `to_json`. files: relative POSIX path -> {"size", "sha256"}.

    target: of the code that is stored; None if loading lowers the program again.
    """

    info: dict[str, Any]
    records: list[dict[str, Any]]
    files: dict[str, dict[str, Any]]
    target: Target | None = None
    version: int = VERSION

    def write(self, folder: Path) -> None:
        """Write it into the artifact's folder, in place of the one that is there, at once."""
        target = None if self.target is None else {**vars(self.target), "needs": list(self.target.needs)}
        data = {"format": FORMAT, "version": VERSION, "info": self.info, "target": target, "files": self.files}
        temporary = folder / f".{MANIFEST_FILE}.{os.getpid()}"
        try:
            temporary.write_text(json.dumps({**data, "records": self.records}, indent=1) + "\n", encoding="utf-8")
            temporary.replace(folder / MANIFEST_FILE)
        finally:
            temporary.unlink(missing_ok=True)

    @staticmethod
    def read(folder: Path, any_version: bool = False) -> Manifest:
        """Read it. Raises ArtifactError if it is missing, malformed, or of another version."""
        path = folder / MANIFEST_FILE
        data = _parse(path)
        if data.get("format") != FORMAT:
            raise ArtifactError(f"{path}: this is not the manifest of an llmc model")
        version = data.get("version")
        if not isinstance(version, int) or (version != VERSION and not any_version):
            raise ArtifactError(
                f"{path}: this is version {version!r}; version {VERSION} is needed. Run '{REBUILD} {folder}', which compiles "
                "the program that is in it again"
            )
        try:
            target = None if data.get("target") is None else Target.from_json(data["target"])
            manifest = Manifest(data["info"], data["records"], data["files"], target, version)
        except KeyError as error:
            raise ArtifactError(f"{path}: {error} is missing") from error
        except ValueError as error:
            raise ArtifactError(f"{path}: {error}") from error
        if not isinstance(manifest.records, list) or not isinstance(manifest.files, dict):
            raise ArtifactError(f"{path}: 'records' should be a list and 'files' an object")
        return manifest

    def check_target(self, folder: Path) -> None:
        """Raise ArtifactError if the code that is stored cannot run on this machine. Opens no file."""
        problem = "" if self.target is None else lacking(self.target.machine, self.target.needs)
        if problem:
            raise ArtifactError(
                f"{folder}: this model was compiled for {self.target.name}, but {problem}; "  # type: ignore[union-attr]
                f"'{REBUILD} {folder}' compiles it for this machine"
            )

    def require(self, folder: Path, names: Iterable[str]) -> None:
        """Raise ArtifactError naming the first of these files that is not listed."""
        for name in names:
            if name not in self.files:
                raise ArtifactError(f"{folder / MANIFEST_FILE}: {name} is not listed")

    def check(self, folder: Path, unread: Iterable[str] = ()) -> None:
        """Raise ArtifactError naming the first file that is missing, changed, or not inside the folder.

        unread: files whose size is enough for now; `check_file` before they are opened.
        """
        later, verified = set(unread), Verified(folder)
        for name in self.files:
            problem = self._problem(folder, name, None if name in later else verified)
            if problem:
                raise ArtifactError(problem)

    def check_file(self, folder: Path, name: str) -> None:
        """Raise ArtifactError if one file is missing or changed."""
        problem = self._problem(folder, name, Verified(folder))
        if problem:
            raise ArtifactError(problem)

    def changed(self, folder: Path, under: str) -> list[str]:
        """The files in a folder of the artifact that are missing, or not as they were written, by their paths in it."""
        verified, prefix = Verified(folder), f"{under}/"
        names = [name for name in self.files if name.startswith(prefix)]
        return [name.removeprefix(prefix) for name in names if self._problem(folder, name, verified)]

    def _problem(self, folder: Path, name: str, verified: Verified | None) -> str:
        """What is wrong with a file, or nothing. verified None: only its size is looked at."""
        path, expected = _inside(folder, name), self.files[name]
        if not path.is_file():
            return f"{path}: there is no such file"
        try:
            if not isinstance(expected, dict) or path.stat().st_size != expected.get("size"):
                what = "size"
            elif verified is not None and verified.sha256(name, path) != expected.get("sha256"):
                what = "content"
            else:
                return ""
        except OSError as error:
            return f"{path}: cannot be read: {error}"
        hint = f"; '{REBUILD} {folder}' makes the library from sources that you edited" if path.suffix in SOURCES else ""
        return f"{path}: its {what} is not what {MANIFEST_FILE} says; the file was damaged or changed{hint}"


SOURCES = (".cpp", ".h", ".c", ".so", ".sh")
"""Endings of files that `rebuild` reads or makes."""


def is_artifact(folder: Path) -> bool:
    """Whether a folder holds a model saved by any version of llmc."""
    try:
        return _parse(folder / MANIFEST_FILE).get("format") == FORMAT
    except ArtifactError:
        return False


def unlisted(folder: Path) -> list[str]:
    """The files of an artifact's folder that its manifest does not list: somebody else's. Relative POSIX paths, sorted."""
    listed = _parse(folder / MANIFEST_FILE).get("files")
    known = {MANIFEST_FILE, *(listed if isinstance(listed, dict) else ())}
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name for name in set(found) - known if not name.startswith(f".{MANIFEST_FILE}."))  # left by a killed `write`


def describe(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    return {"size": path.stat().st_size, "sha256": file_hash(path)}


def describe_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Of every file in a folder, by its relative POSIX path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): describe(path) for path in files}


def _parse(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: cannot read the manifest: {error}") from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{path}: the manifest should be an object")
    return data


def _inside(folder: Path, name: str) -> Path:
    """The path of a file of the artifact; a name may not lead out of it, nor a link stand on the way."""
    relative = PurePosixPath(name)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or "\\" in name or "\0" in name:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: '{name}' is not a file inside the model's folder")
    path = folder
    for part in relative.parts:
        path = path / part
        if path.is_symlink():
            raise ArtifactError(f"{path}: a link stands where a file should be")
    return path
