"""llmc compile: from a model to a folder that runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from llmc.cli.common import (
    BackendOption,
    JsonOption,
    PassOption,
    RecipeOption,
    SourceArgument,
    TargetOption,
    ThreadsOption,
    compile_model,
    is_compiled,
    print_json,
)
from llmc.cli.inspect import summary
from llmc.errors import ArtifactError, InputError


def compile(
    model: SourceArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Where the compiled model goes.")],
    recipe: RecipeOption = None,
    passes: PassOption = None,
    backend: BackendOption = None,
    target: TargetOption = None,
    max_context: Annotated[
        int | None, typer.Option(min=1, help="Positions of a sequence.", show_default="what the model allows")
    ] = None,
    threads: ThreadsOption = None,
    compare: Annotated[bool, typer.Option("--compare", help="Measure what each pass changes of the outputs.")] = False,
    dump_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the program after every pass into this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compile a model, save it, and print what every pass did."""
    if is_compiled(model):
        raise InputError(f"{model}: this is compiled already; give the model that it was compiled from")
    _check_output(output)
    if dump_dir is not None:
        _make(dump_dir)
    compiled = compile_model(
        model,
        recipe=recipe,
        passes=passes,
        backend=backend,
        target=target,
        max_context=max_context,
        threads=threads,
        compare=compare,
        dump_dir=dump_dir,
    )
    compiled.save(output)
    if as_json:
        print_json({"folder": str(output), **summary(compiled), "passes": [record.to_json() for record in compiled.records]})
    else:
        print(compiled.explain())
        print(f"saved in {output}")


def _check_output(folder: Path) -> None:
    """Saving would refuse to replace something else, or find that nobody may write there, but only after the work is done."""
    from llmc.runtime.manifest import is_artifact

    try:
        other = folder.exists() and not (folder.is_dir() and (is_artifact(folder) or not any(folder.iterdir())))
        parent = next(path for path in folder.absolute().parents if path.exists())
        Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}.new-")).rmdir()
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot save the model there: {error.strerror}") from error
    if other:
        raise ArtifactError(f"{folder}: this exists and is not a compiled model; it is not replaced")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot make this folder: {error.strerror}") from error
