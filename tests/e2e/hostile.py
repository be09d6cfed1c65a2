"""What the hostile inputs are made of: ways to spoil a checkpoint, an artifact, a recipe, a plugin, a compiler."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MODEL = Path(__file__).resolve().parents[2] / "examples" / "tiny_lm" / "model"

Prepare = Callable[[Path], None]
"""Makes what a case needs in its folder, where `m` is a model and `a` an artifact of it."""


@dataclass(frozen=True)
class Case:
    """A command with its arguments as one would type them, and what its error line must say.

    copies: what is put into the case's folder, "m" a model, "a" an artifact of it. outside: run in a process of its own.
    """

    command: str
    error: str
    prepare: Prepare = lambda folder: None
    copies: str = ""
    stdin: bytes = b""
    environment: dict[str, str] = field(default_factory=dict)
    outside: bool = False


COMPILE = "compile {m} -o {folder}/out --backend eager"


def model(prepare: Prepare, error: str, command: str = COMPILE, stdin: bytes = b"") -> Case:
    """A model that is spoilt."""
    return Case(command, error, prepare, copies="m", stdin=stdin)


def artifact(prepare: Prepare, error: str, command: str = "generate {a} def") -> Case:
    """An artifact that is spoilt."""
    return Case(command, error, prepare, copies="a")


def config(**changes: Any) -> Prepare:
    """Change the model's config; None takes a key away."""
    return _changed("m/config.json", changes)


def tokenizer_config(**changes: Any) -> Prepare:
    return _changed("m/tokenizer_config.json", changes)


def generation_config(**changes: Any) -> Prepare:
    return _changed("m/generation_config.json", changes)


def _changed(name: str, changes: dict[str, Any]) -> Prepare:
    def prepare(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        data.update(changes)
        text = json.dumps({key: value for key, value in data.items() if value is not None})
        (folder / name).write_text(text)

    return prepare


def file(name: str, content: str | bytes) -> Prepare:
    """A file of this content, in place of what is there."""

    def prepare(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def folder_at(name: str) -> Prepare:
    """A folder, in place of a file if there is one."""

    def prepare(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir(parents=True)

    return prepare


def without(name: str) -> Prepare:
    return lambda folder: (folder / name).unlink()


def both(*steps: Prepare) -> Prepare:
    """One after the other."""

    def prepare(folder: Path) -> None:
        for step in steps:
            step(folder)

    return prepare


def data_of(name: str, change: Callable[[bytes], bytes]) -> Prepare:
    """The bytes of a file changed."""

    def prepare(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return prepare


def flipped(name: str) -> Prepare:
    """A bit in the middle of a file."""
    return data_of(name, lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])


def halved(name: str) -> Prepare:
    return data_of(name, lambda data: data[: len(data) // 2])


CHECKPOINT = "m/model.safetensors"
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def header(change: Callable[[dict[str, Any]], object]) -> Prepare:
    """The header of the checkpoint changed in place, its data left as it is."""

    def rewritten(data: bytes) -> bytes:
        [length] = struct.unpack("<Q", data[:8])
        tensors = json.loads(data[8 : 8 + length])
        change(tensors)
        return with_header(json.dumps(tensors).encode(), data)

    return data_of(CHECKPOINT, rewritten)


def with_header(text: bytes, data: bytes) -> bytes:
    """The data of a file behind another header."""
    [length] = struct.unpack("<Q", data[:8])
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def doubled(data: bytes) -> bytes:
    """A header in which a name comes twice."""
    [length] = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].strip()
    entry = json.dumps({NORM: json.loads(header)[NORM]}).encode()
    return with_header(entry[:-1] + b"," + header[1:], data)


def sharded(weight_map: dict[str, str] | str) -> Prepare:
    """An index of shards in place of the single file."""

    def prepare(folder: Path) -> None:
        (folder / CHECKPOINT).rename(folder / "m" / "model-00001-of-00002.safetensors")
        index = weight_map if isinstance(weight_map, str) else json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "m" / "model.safetensors.index.json").write_text(index)

    return prepare


def manifest(change: Callable[[dict[str, Any]], object]) -> Prepare:
    """The manifest of the artifact changed."""

    def prepare(folder: Path) -> None:
        data = json.loads((folder / "a/manifest.json").read_text())
        change(data)
        (folder / "a/manifest.json").write_text(json.dumps(data))

    return prepare


def info(**changes: Any) -> Prepare:
    """Facts of the manifest changed."""
    return manifest(lambda data: data["info"].update(changes))


def rehashed(*steps: Prepare, name: str) -> Prepare:
    """Steps that change a file of the artifact, and the manifest made to agree, as somebody would who means it."""

    def prepare(folder: Path) -> None:
        both(*steps)(folder)
        data = (folder / "a" / name).read_bytes()
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        manifest(lambda found: found["files"].update({name: entry}))(folder)

    return prepare


def executable(**changes: Any) -> Prepare:
    """What the backend says of its library changed, and the manifest made to agree."""
    return rehashed(_changed("a/executable/executable.json", changes), name="executable/executable.json")


def listed(name: str) -> Prepare:
    """A further name in the manifest's list of files."""
    return manifest(lambda data: data["files"].update({name: {"size": 1, "sha256": "0" * 64}}))


def link(name: str) -> Prepare:
    """A file of the artifact moved away and a link to it put in its place."""

    def prepare(folder: Path) -> None:
        (folder / "a" / name).rename(folder / "moved")
        (folder / "a" / name).symlink_to(folder / "moved")

    return prepare


def script(body: str) -> Prepare:
    """A compiler that does this, at `{folder}/cxx`; it tells its version if it is asked."""

    def prepare(folder: Path) -> None:
        path = folder / "cxx"
        path.write_text(f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'cxx 1.0' && exit 0\n{body}\n")
        path.chmod(0o755)

    return prepare


def plugin(code: str, distribution: str = "evil") -> Prepare:
    """An installed distribution with a plugin, in a folder that PYTHONPATH names."""

    def prepare(folder: Path) -> None:
        site = folder / "site"
        site.mkdir(exist_ok=True)
        (site / f"{distribution}_plugin.py").write_text("from llmc.plugins.hooks import hookimpl\n" + code)
        facts = site / f"{distribution}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[llmc]\n{distribution}-entry = {distribution}_plugin\n")

    return prepare


def deep(opening: str, closing: str, levels: int = 100_000) -> str:
    """Something nested."""
    return opening * levels + closing * levels


def copy(name: str, source: Path, folder: Path) -> None:
    """A model or an artifact for a case to spoil."""
    shutil.copytree(source, folder / name)
