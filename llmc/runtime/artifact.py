"""Compiled models on disk: a folder with the program, its weights, the tokenizer, the generated code, and a manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import ArtifactError
from llmc.runtime.info import ModelInfo
from llmc.runtime.lowering import lower
from llmc.runtime.manifest import MANIFEST_FILE, Manifest, describe_all, is_artifact, unlisted
from llmc.runtime.model import CompiledModel
from llmc.runtime.replace import recover, replacing
from llmc.runtime.tokenizer import TOKENIZER_FILE, Tokenizer

if TYPE_CHECKING:
    from llmc.ir.program import Program

PROGRAM_FOLDER, TOKENIZER_FOLDER, SOURCE_FOLDER = "program", "tokenizer", "source"
REQUIRED = (f"{PROGRAM_FOLDER}/program.json", f"{PROGRAM_FOLDER}/weights.safetensors")


def save(model: CompiledModel, folder: Path | str) -> None:
    """Write a model. A model that is there already is replaced, at once and only when the new one is complete.

    The code under `source/` is for reading; loading lowers the program again. Raises ArtifactError if the folder holds
    anything that llmc did not put there, or if it cannot be written.
    """
    target = Path(folder).resolve()
    try:
        recover(target)
        if target.exists():
            _check_replaceable(target)
        with replacing(target) as made:
            _write(model, made)
    except OSError as error:
        raise ArtifactError(f"{target}: cannot save the model: {error}") from error


def _check_replaceable(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if not target.is_dir() or not is_artifact(target):
        raise ArtifactError(f"{target}: this exists and is not a compiled model; it is not replaced")
    others = unlisted(target)
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise ArtifactError(f"{target}: it holds files that are not the model's and would be lost: {shown}; move them first")


def _write(model: CompiledModel, folder: Path) -> None:
    model.program.save(folder / PROGRAM_FOLDER)
    if model.tokenizer is not None:
        model.tokenizer.save(folder / TOKENIZER_FOLDER)
    for name, code in model.executable.sources().items():
        path = folder / SOURCE_FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
    records = [record.to_json() for record in model.records]
    Manifest(model.info.to_json(), records, describe_all(folder)).write(folder)


def load(folder: Path | str, backend: str | None = None, threads: int | None = None) -> CompiledModel:
    """Read a model that `save` wrote and lower it, for another backend or number of threads if given.

    Raises ArtifactError naming the file that is missing, damaged, or of another version; PluginError if there is no such
    backend; UnsupportedError if it cannot lower the program.
    """
    from llmc.plugins.registry import default

    path = Path(folder)
    try:
        recover(path)
    except OSError as error:
        raise ArtifactError(f"{path}: a save was cut off and cannot be taken back: {error}") from error
    try:
        info, records, tokenizer, program = _read(path)
    except RecursionError as error:
        raise ArtifactError(f"{path}: a file of the model is nested too deeply to be read") from error
    info = dataclasses.replace(info, backend=backend or info.backend, threads=info.threads if threads is None else threads)
    executable = lower(default().backend(info.backend), info.backend, program)
    return CompiledModel(program, executable, info, tokenizer, records)


def _read(path: Path) -> tuple[ModelInfo, list[Any], Tokenizer | None, Program]:
    from llmc.ir.program import Program

    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such folder")
    if not (path / MANIFEST_FILE).exists() and (path / "config.json").exists():
        raise ArtifactError(f"{path}: this model is not compiled yet; do it by llmc.compile, or llmc compile {path} -o FOLDER")
    manifest = Manifest.read(path)
    missing = [name for name in REQUIRED if name not in manifest.files]
    if missing:
        raise ArtifactError(f"{path / MANIFEST_FILE}: {missing[0]} is not listed")
    manifest.check(path)
    info, records = _facts(path, manifest)
    listed = f"{TOKENIZER_FOLDER}/{TOKENIZER_FILE}" in manifest.files
    tokenizer = Tokenizer(path / TOKENIZER_FOLDER) if listed else None
    program = Program.load(path / PROGRAM_FOLDER)
    _check_claims(path, info, program)
    return info, records, tokenizer, program


def _check_claims(folder: Path, info: ModelInfo, program: Program) -> None:
    from llmc.runtime.limits import input_specs

    try:
        info.check(input_specs(program))
    except ArtifactError as error:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: {error}") from error


def _facts(folder: Path, manifest: Manifest) -> tuple[ModelInfo, list[Any]]:
    from pydantic import TypeAdapter, ValidationError

    from llmc.pipeline.base import PassRecord

    try:
        return ModelInfo.from_json(manifest.info), TypeAdapter(list[PassRecord]).validate_python(manifest.records)
    except ArtifactError as error:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: {error}") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ArtifactError(f"{folder / MANIFEST_FILE}: malformed record of a pass: {where}") from error
