"""The whole compiler: capture, passes, lowering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc import __version__
from llmc.capture.capture import capture
from llmc.capture.checkpoint import map_weights
from llmc.capture.encoders import KINDS
from llmc.capture.source import open_source
from llmc.errors import InputError
from llmc.pipeline.instrument import Compare, Dump, Verify
from llmc.pipeline.pipeline import Instrument
from llmc.pipeline.recipe import recipe_name, resolve
from llmc.plugins import registry as plugins
from llmc.runtime import progress
from llmc.runtime.contract import check_sizes
from llmc.runtime.info import ModelInfo
from llmc.runtime.lowering import lower
from llmc.runtime.model import CompiledModel
from llmc.runtime.sampling import is_integer
from llmc.runtime.tokenizer import TOKENIZER_FILE, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn


def compile(
    model: str | Path | nn.Module,
    *,
    recipe: str | Path | Sequence[Any] | None = None,
    passes: Sequence[Any] = (),
    backend: str = "cpu",
    target: str | None = None,
    example_inputs: tuple[Tensor, ...] | Mapping[str, Tensor] | None = None,
    kind: str | None = None,
    max_context: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    compare: bool = False,
    dump_dir: str | Path | None = None,
) -> CompiledModel:
    """Compile a causal language model, or an encoder.

    model: a folder or hub id of the `transformers` library (a folder of `sentence-transformers` too), or an nn.Module; a module
    of your own needs `example_inputs`, a tuple of one int64 tensor of ids `[1, S]`, or of an encoder its arguments by name.
    kind: "causal", or "encoder" for a module that may read whole sequences and give values of them; known of classes of the
    library. recipe: a name ("fuse", "int4"), a YAML file or a list. passes: more passes, by name, as
    `{"name": ..., option: ...}`, class or instance; each must match something. target: what the backend makes code for, of
    those that `llmc backends` lists; the best that runs here by default. max_context: positions of a sequence, at most what
    the model allows. threads: all cores by default. verify: prove the program's rules again after every pass. compare: measure
    what each pass changes of the outputs. dump_dir: write the program after each pass there.

    Raises CaptureError, InputError, PluginError, PipelineError, UnsupportedError or ToolchainError, each saying what to do.
    """
    check_sizes(1, threads)
    if max_context is not None and (not is_integer(max_context) or max_context < 1):
        raise InputError(f"max_context must be a whole number from 1 upwards, not {max_context!r}")
    if kind not in (None, *KINDS):
        raise InputError(f"kind must be {' or '.join(map(repr, KINDS))}, not {kind!r}")
    registry = plugins.default()
    lowering = registry.backend(backend) if target is None else registry.backend(backend).for_target(target)
    pipeline = resolve(recipe, passes, registry)
    source = open_source(model)
    has_tokenizer = source.folder is not None and (source.folder / TOKENIZER_FILE).is_file()
    tokenizer = Tokenizer(source.folder) if has_tokenizer and source.folder else None

    progress.report("capturing the graph", 0, 0)
    captured = capture(source.module, example_inputs, max_context or source.most_tokens, kind or source.kind)
    program = map_weights(captured.program, source.stored, source.folder) if source.folder else captured.program

    wanted: list[Instrument | None] = [
        Verify() if verify else None,
        Compare() if compare else None,
        Dump(dump_dir) if dump_dir else None,
    ]
    instruments = [instrument for instrument in wanted if instrument is not None]
    result = pipeline.run(program, registry, instruments)

    progress.report(f"lowering to backend {backend}", 0, 0)
    lowered = lower(lowering, backend, result.program)
    info = ModelInfo(
        name=source.name,
        vocab_size=captured.vocab_size,
        max_context=captured.max_context,
        architecture=source.architecture,
        eos_ids=source.eos_ids,
        bos_id=source.bos_id,
        recipe=recipe_name(recipe),
        backend=backend,
        threads=threads,
        source=source.origin,
        versions={"llmc": __version__, **registry.versions()},
        target=target or "",
        notes=captured.notes,
        padding=captured.padding,
    )
    snapshots = {"capture": program, **result.snapshots}
    records = [*result.records, *lowered.records]
    return CompiledModel(result.program, lowered.executable, info, tokenizer, records, snapshots)
