"""Anonymous memory at the peak of compiling a model of a billion parameters from a bfloat16 checkpoint, compilers included.

    python benchmarks/memory.py [--recipe int4] [--backend cpu] [--layers 16] [--width 2048] [--vocab 128256]

A checkpoint with random weights is written in shards, by blocks of rows, compiled and saved by a child process, and deleted.
While that runs, RssAnon of the child and of all that it has started is read off /proc and summed. Pages of mapped files do not
count: the system takes them back when it needs them. Nor does a process that is about to start a program: until then it has the
memory of its parent.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from llmc.conformance.modules import library_model
from llmc.ir.formats import Dense
from llmc.ir.tensor_file import write_weights
from llmc.ir.weights import Weight

SHARD_BYTES = 1 << 30
INTERVAL = 0.02
COMPILE = "import sys, llmc; llmc.compile(sys.argv[1], recipe=sys.argv[2], backend=sys.argv[3]).save(sys.argv[4])"


class Random(Weight):
    """Normal numbers of standard deviation 0.02 in bfloat16, made by rows from a seed."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.shape, self.format, self.seed = shape, Dense("bfloat16"), seed

    def parts(self, start: int = 0, stop: int | None = None) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed + start)
        rows = (self.shape[0] if stop is None else stop) - start
        return {"values": (torch.randn(rows, *self.shape[1:], generator=generator) * 0.02).bfloat16()}


def write_checkpoint(folder: Path, module: nn.Module) -> int:
    """A folder of the `transformers` library for a module on the meta device; how many numbers it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    module.config.save_pretrained(folder)  # type: ignore[operator, union-attr]
    shard: dict[str, Weight] = {}
    size, count = 0, 0
    where: dict[str, str] = {}
    for i, (name, tensor) in enumerate(module.named_parameters()):
        if shard and size + 2 * tensor.numel() > SHARD_BYTES:
            _write(shard, folder, where)
            shard, size = {}, 0
        shard[name], size, count = Random(tuple(tensor.shape), i << 32), size + 2 * tensor.numel(), count + tensor.numel()
    _write(shard, folder, where)
    index = {"metadata": {"total_size": 2 * count}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return count


def _write(shard: dict[str, Weight], folder: Path, where: dict[str, str]) -> None:
    file = f"model-{len(set(where.values())) + 1:05}.safetensors"
    write_weights(shard, folder / file, name_of=lambda weight, part: weight)
    where.update(dict.fromkeys(shard, file))


def tree(root: int) -> Iterator[int]:
    """A process and all that descend from it, by their ids, but for those that still run the program of their parent.

    These have its memory. One that goes on with that program and takes memory of its own is missed; a compilation starts none.
    """
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    todo = [root]
    while todo:
        process = todo.pop()
        yield process
        todo += [child for child in children.get(process, []) if command_line(child) != command_line(process)]


def command_line(process: int) -> bytes:
    """What a process runs; nothing if it has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def anonymous_bytes(process: int) -> int:
    """RssAnon of a process; nothing if it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def peak_of(command: list[str]) -> tuple[int, float]:
    """Run a command: the greatest sum of RssAnon over its processes, in bytes, and the seconds it took."""
    began, peak = time.perf_counter(), 0
    with subprocess.Popen(command) as running:
        while running.poll() is None:
            peak = max(peak, sum(map(anonymous_bytes, tree(running.pid))))
            time.sleep(INTERVAL)
    if running.returncode:
        raise SystemExit(f"the compilation ended with code {running.returncode}")
    return peak, time.perf_counter() - began


def main(
    recipe: Annotated[str, typer.Option()] = "int4",
    backend: Annotated[str, typer.Option()] = "cpu",
    layers: Annotated[int, typer.Option(min=1)] = 16,
    width: Annotated[int, typer.Option(min=64, help="A multiple of 64.")] = 2048,
    vocab: Annotated[int, typer.Option(min=2)] = 128256,
) -> None:
    """Print the peak in MB beside the sizes of the checkpoint and of what is saved."""
    heads = width // 64
    with torch.device("meta"):
        module = library_model(
            "rope", vocab_size=vocab, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, head_dim=64,
            num_attention_heads=heads, num_key_value_heads=max(heads // 4, 1), tie_word_embeddings=True,
            max_position_embeddings=4096,
        )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="llmc-memory-") as name:
        source, target = Path(name) / "source", Path(name) / "target"
        count = write_checkpoint(source, module)
        peak, seconds = peak_of([sys.executable, "-c", COMPILE, str(source), recipe, backend, str(target)])
        saved = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(
        f"{count / 1e6:.0f}M parameters, {2 * count / 1e6:.0f} MB in bfloat16; recipe {recipe}, backend {backend}: peak of "
        f"{peak / 1e6:.0f} MB anonymous memory, {saved / 1e6:.0f} MB saved, {seconds:.0f} s"
    )


if __name__ == "__main__":
    typer.run(main)
