"""Random checkpoints of the shapes, and what each side makes of them; both are kept on disk."""

from __future__ import annotations

from pathlib import Path

from benchmarks.client import Client
from benchmarks.home import ROOT, own_digest
from benchmarks.peers.base import Side
from benchmarks.shapes import Shape


def checkpoint(shape: Shape, home: Path) -> Path:
    """A folder of the `transformers` library in bfloat16, written once."""
    folder = home / "models" / shape.name / "checkpoint"
    if shape.folder and not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.symlink_to(ROOT / shape.folder)
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    torch.manual_seed(0)
    config = shape.config()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = (AutoModel if shape.encoder else AutoModelForCausalLM).from_config(config, dtype=torch.bfloat16)
    finally:
        torch.set_default_dtype(torch.float32)
    written = folder.with_name("checkpoint.part")
    model.save_pretrained(written)
    written.rename(folder)
    return folder


def model_of(side: Side, shape: Shape, home: Path, threads: int) -> Path:
    """What a side loads, built by its own process if it is not there. Raises PeerError if that fails."""
    source = checkpoint(shape, home)
    name = f"{side.key}-{own_digest()}" if side.peer == "llmc_cpu" else side.key
    target = source.parent / name
    if not target.exists():
        log = home / "logs" / f"{shape.name}-{side.key}-build.log"
        with Client(side, home, threads, log, pinned=False) as client:  # compilers that it starts would share its core
            client.ask("build", checkpoint=str(source), variant=side.variant, target=str(target))
    return target
