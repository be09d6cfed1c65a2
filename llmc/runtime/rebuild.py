"""Making the code of an artifact again: from its own sources, or from its program for another instruction set or version."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import ArtifactError
from llmc.runtime import artifact
from llmc.runtime.artifact import EXECUTABLE_FOLDER, PROGRAM_FILES, TOKENIZER_FOLDER
from llmc.runtime.lowering import LOWER, lower
from llmc.runtime.manifest import VERSION, Manifest, describe
from llmc.runtime.model import CompiledModel
from llmc.runtime.processor import lacking

if TYPE_CHECKING:
    from llmc.runtime.contract import Backend


@dataclass(frozen=True)
class Rebuilt:
    """What was done. target: of the code that is there now. lowered: the program was lowered again and the sources are new.

    edited: the sources that were not as the manifest said: they were compiled or, where `lowered`, overwritten.
    """

    folder: Path
    target: str
    lowered: bool
    edited: tuple[str, ...]


def rebuild(folder: Path | str, target: str | None = None, force: bool = False) -> Rebuilt:
    """Compile an artifact's sources, as they are now, into its library; for another target or version, lower its program again.

    target: of the backend (`llmc backends`); without, the one that it has, or the best of this machine if that cannot run here.
    Lowering makes new sources, and is refused if any were edited; `force` lowers in any case and overwrites them. Whatever goes
    wrong, the artifact stays as it was.
    Raises ArtifactError if it is damaged or its sources would be lost, ToolchainError with what the compiler said,
    UnsupportedError for a target that there is not, PluginError if the backend is missing.
    """
    from llmc.plugins.registry import default

    path = artifact.opened(folder)
    manifest = Manifest.read(path, any_version=True)
    info, _ = artifact.read_facts(path, manifest)
    backend = default().backend(info.backend)
    if not backend.stored:
        raise ArtifactError(f"{path}: backend '{info.backend}' keeps no code; it lowers the program whenever a model is loaded")
    changed = manifest.changed(path, EXECUTABLE_FOLDER)
    edited = tuple(name for name in changed if name not in backend.stored)
    given = set(backend.stored) - set(backend.built)  # what cannot be made of the sources
    try:
        if not force and _fits(manifest, target) and not given & set(changed) and _compile(path, manifest, backend):
            return Rebuilt(path, str(manifest.target and manifest.target.name), False, edited)
        if edited and not force:
            raise ArtifactError(
                f"{path}: {', '.join(edited)} was edited, and would be lost: code for another target or version is made "
                "from the program. Keep a copy and say --force"
            )
        return Rebuilt(path, _lower(path, manifest, backend, target), True, edited)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot rebuild the model: {error}") from error


def _fits(manifest: Manifest, target: str | None) -> bool:
    """Whether the code that is there is of this version, for the wanted target, and for this machine."""
    has = manifest.target
    if manifest.version != VERSION or has is None:
        return False
    return target == has.name if target else not lacking(has.machine, has.needs)


def _compile(folder: Path, manifest: Manifest, backend: Backend) -> bool:
    """Compile the sources that are there; False if they are of another version.

    All is made and described in a folder of its own, so that a full disk or a kill leaves what was there; then the files take
    their places one by one, the manifest last: cut off in between, the artifact is refused until it is rebuilt again.
    """
    home = folder / EXECUTABLE_FOLDER
    work = Path(tempfile.mkdtemp(dir=folder.resolve().parent, prefix=f".{folder.resolve().name}.rebuild-"))
    try:
        sources = backend.rebuild(home, work)
        if sources is None:
            return False
        made = sorted(path.name for path in work.iterdir())
        files = {name: entry for name, entry in manifest.files.items() if not name.startswith(f"{EXECUTABLE_FOLDER}/")}
        for name in sorted({*backend.stored, *sources, *made}):
            files[f"{EXECUTABLE_FOLDER}/{name}"] = describe((work if name in made else home) / name)
        for name in made:
            (work / name).replace(home / name)
        dataclasses.replace(manifest, files=files).write(folder)
        return True
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _lower(folder: Path, manifest: Manifest, backend: Backend, target: str | None) -> str:
    """Lower the program and save the model anew; the target that it is for now."""
    manifest.require(folder, PROGRAM_FILES)
    for name in manifest.files:
        if name.startswith((f"{artifact.PROGRAM_FOLDER}/", f"{TOKENIZER_FOLDER}/")):
            manifest.check_file(folder, name)
    info, records = artifact.read_facts(folder, manifest)
    if target is None and manifest.target and not lacking(manifest.target.machine, manifest.target.needs):
        target = manifest.target.name
    program = artifact.read_program(folder)
    lowered = lower(backend.for_target(target) if target else backend, info.backend, program)
    records = [*(record for record in records if record.key != LOWER), *lowered.records]
    info = dataclasses.replace(info, target=target or "")
    artifact.save(CompiledModel(program, lowered.executable, info, artifact.read_tokenizer(folder, manifest), records), folder)
    return lowered.executable.target
