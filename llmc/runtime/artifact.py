"""Compiled models on disk: a folder with the program, its weights, the tokenizer, what runs, and a manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import ArtifactError, LLMCError
from llmc.runtime.info import ModelInfo
from llmc.runtime.lowering import LOWER, lower
from llmc.runtime.manifest import MANIFEST_FILE, Manifest, Target, describe_all, is_artifact, unlisted
from llmc.runtime.model import CompiledModel
from llmc.runtime.replace import recover, replacing
from llmc.runtime.tokenizer import TOKENIZER_FILE, Tokenizer

if TYPE_CHECKING:
    from llmc.ir.program import Program
    from llmc.runtime.contract import Backend, Executable

PROGRAM_FOLDER, TOKENIZER_FOLDER, EXECUTABLE_FOLDER = "program", "tokenizer", "executable"
PROGRAM_WEIGHTS = f"{PROGRAM_FOLDER}/weights.safetensors"
PROGRAM_FILES = (f"{PROGRAM_FOLDER}/program.json", PROGRAM_WEIGHTS)


def save(model: CompiledModel, folder: Path | str) -> None:
    """Write a model. A model that is there already is replaced, at once and only when the new one is complete.

    A process that has the old one loaded keeps it. Raises ArtifactError if the folder holds anything that llmc did not put
    there, or if it cannot be written.
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
    executable = model.executable
    (folder / EXECUTABLE_FOLDER).mkdir()
    executable.save(folder / EXECUTABLE_FOLDER)
    target = Target(executable.target, executable.machine, executable.needs) if executable.target else None
    records = [record.to_json() for record in model.records]
    Manifest(model.info.to_json(), records, describe_all(folder), target).write(folder)


def load(folder: Path | str, backend: str | None = None, threads: int | None = None) -> CompiledModel:
    """Read a model that `save` wrote, to run it with another number of threads, or lower it for another backend, if given.

    What a backend has stored is mapped and run as it is; the program, which only explanations and other backends need, is read
    when it is asked for. Loading runs the library of the artifact, which is to be trusted like a program. Raises ArtifactError
    naming the file that is missing, damaged, of another version, or for another processor; PluginError if there is no such
    backend; UnsupportedError if it cannot lower the program.
    """
    from llmc.plugins.registry import default

    path = opened(folder)
    try:
        manifest = Manifest.read(path)
        info, records = read_facts(path, manifest)
        name = backend or info.backend
        opener: Backend = default().backend(name, lowers=False)
        opens = bool(opener.stored) and name == info.backend
        if opens:
            manifest.check_target(path)
        manifest.require(path, [*PROGRAM_FILES, *(f"{EXECUTABLE_FOLDER}/{file}" for file in opener.stored if opens)])
        manifest.check(path, unread=(PROGRAM_WEIGHTS,) if opens else ())
        tokenizer = read_tokenizer(path, manifest)
        target = info.target if name == info.backend else ""
        info = dataclasses.replace(info, backend=name, target=target, threads=info.threads if threads is None else threads)
        if opens:
            executable = _open(opener, name, path / EXECUTABLE_FOLDER)
            _check_claims(path, info, executable)
            home = path.absolute()  # the program may be read when this process works elsewhere
            return CompiledModel(lambda: _late_program(home, manifest, executable), executable, info, tokenizer, records)
        program = read_program(path)
    except RecursionError as error:
        raise ArtifactError(f"{path}: a file of the model is nested too deeply to be read") from error
    lowering = default().backend(name)
    lowered = lower(lowering.for_target(info.target) if info.target else lowering, name, program)
    _check_claims(path, info, lowered.executable)
    records = [*(record for record in records if record.key != LOWER), *lowered.records]
    return CompiledModel(program, lowered.executable, info, tokenizer, records)


def opened(folder: Path | str) -> Path:
    """The folder of a saved model. Raises ArtifactError if there is none."""
    path = Path(folder)
    try:
        recover(path)
    except OSError as error:
        raise ArtifactError(f"{path}: a save was cut off and cannot be taken back: {error}") from error
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such folder")
    if not (path / MANIFEST_FILE).exists() and (path / "config.json").exists():
        raise ArtifactError(f"{path}: this model is not compiled yet; do it by llmc.compile, or llmc compile {path} -o FOLDER")
    return path


def _open(backend: Backend, name: str, folder: Path) -> Executable:
    """What the backend has stored; whatever it stumbles over is the artifact's fault."""
    try:
        return backend.open(folder)
    except (LLMCError, MemoryError):
        raise
    except Exception as error:  # the backend may be anybody's
        raise ArtifactError(f"{folder}: backend '{name}' cannot open it: {type(error).__name__}: {error}") from error


def read_program(folder: Path) -> Program:
    """The program of an artifact whose files were checked. Raises ArtifactError if it is malformed."""
    from llmc.ir.program import Program

    return Program.load(folder / PROGRAM_FOLDER)


def _late_program(folder: Path, manifest: Manifest, executable: Executable) -> Program:
    """The program of a model that runs, which must be the one that was lowered."""
    from llmc.ir.program import type_of
    from llmc.runtime.limits import input_specs

    for name in PROGRAM_FILES:  # both: another model may have taken the folder since
        manifest.check_file(folder, name)
    program = read_program(folder)
    outputs = {name: type_of(node) for name, node in zip(program.outputs, program.results, strict=True)}
    if input_specs(program) != executable.inputs or outputs != executable.outputs:
        raise ArtifactError(f"{folder / PROGRAM_FOLDER}: this is not the program that {EXECUTABLE_FOLDER}/ was made from")
    return program


def read_tokenizer(folder: Path, manifest: Manifest) -> Tokenizer | None:
    """The tokenizer, if the artifact has one."""
    listed = f"{TOKENIZER_FOLDER}/{TOKENIZER_FILE}" in manifest.files
    return Tokenizer(folder / TOKENIZER_FOLDER) if listed else None


def _check_claims(folder: Path, info: ModelInfo, executable: Executable) -> None:
    try:
        info.check(executable.inputs)
    except ArtifactError as error:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: {error}") from error


def read_facts(folder: Path, manifest: Manifest) -> tuple[ModelInfo, list[Any]]:
    """Info and records of the passes. Raises ArtifactError if they are malformed."""
    from pydantic import TypeAdapter, ValidationError

    from llmc.pipeline.record import PassRecord

    try:
        return ModelInfo.from_json(manifest.info), TypeAdapter(list[PassRecord]).validate_python(manifest.records)
    except ArtifactError as error:
        raise ArtifactError(f"{folder / MANIFEST_FILE}: {error}") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ArtifactError(f"{folder / MANIFEST_FILE}: malformed record of a pass: {where}") from error
