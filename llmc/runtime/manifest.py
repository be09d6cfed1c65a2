"""The manifest of an artifact: what it is, and size and hash of every file, so that damage is found before it is used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmc.errors import ArtifactError

FORMAT, VERSION = "llmc", 1
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """info: `ModelInfo.to_json`. records: of the passes, `to_json`. files: relative POSIX path -> {"size", "sha256"}."""

    info: dict[str, Any]
    records: list[dict[str, Any]]
    files: dict[str, dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write it into the artifact's folder."""
        data = {"format": FORMAT, "version": VERSION, "info": self.info, "records": self.records, "files": self.files}
        (folder / MANIFEST_FILE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Manifest:
        """Read it. Raises ArtifactError if it is missing, malformed, or of another version."""
        path = folder / MANIFEST_FILE
        data = _parse(path)
        if data.get("format") != FORMAT:
            raise ArtifactError(f"{path}: this is not the manifest of an llmc model")
        if data.get("version") != VERSION:
            raise ArtifactError(
                f"{path}: this is version {data.get('version')!r}; version {VERSION} is needed. Compile the model again"
            )
        try:
            manifest = Manifest(info=data["info"], records=data["records"], files=data["files"])
        except KeyError as error:
            raise ArtifactError(f"{path}: {error} is missing") from error
        if not isinstance(manifest.records, list) or not isinstance(manifest.files, dict):
            raise ArtifactError(f"{path}: 'records' should be a list and 'files' an object")
        return manifest

    def check(self, folder: Path) -> None:
        """Raise ArtifactError naming the first file that is missing, changed, or not inside the folder."""
        for name, expected in self.files.items():
            path = _inside(folder, name)
            if not path.is_file():
                raise ArtifactError(f"{path}: there is no such file")
            found = describe(path)
            if found != expected:
                what = "size" if not isinstance(expected, dict) or found["size"] != expected.get("size") else "content"
                raise ArtifactError(f"{path}: its {what} is not what {MANIFEST_FILE} says; the file was damaged or changed")


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
    return sorted(set(found) - known)


def describe(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


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
