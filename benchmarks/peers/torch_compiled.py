"""PyTorch compiled by TorchInductor, in bfloat16 or with weights and activations quantized by torchao."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import torch_cpu
from benchmarks.peers.base import Side

SIDES = (
    Side("torch-compile-bf16", "torch.compile bf16", "torch_compiled", "bf16", "bf16"),
    Side("torchao-w8a8", "torchao W8A8, torch.compile", "torch_compiled", "w8a8", "int8"),
)


def install(folder: Path) -> None:
    """torchao into a folder beside the packages of this interpreter, whose torch it extends."""
    from benchmarks.install import run

    run(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", folder, "torchao")


def launch(folder: Path) -> tuple[str, dict[str, str]]:
    return sys.executable, {"PYTHONPATH": str(folder)}


class PeerEngine(torch_cpu.PeerEngine):
    """The same model and cache; every shape of a step is compiled while it warms up."""

    @staticmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        """The folder of the checkpoint is what it reads; a link's name tells the variant."""
        target.symlink_to(checkpoint)

    def load(self, model: Path, copies: int, threads: int) -> None:
        self.quantized = model.name.startswith("torchao")
        super().load(model, copies, threads)
        if self.quantized:
            self.weight_bytes //= 2

    def made(self, model: Any) -> Any:
        import torch

        if self.quantized:
            from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

            quantize_(model, Int8DynamicActivationInt8WeightConfig())
        return torch.compile(model, dynamic=False, options={"freezing": True, "max_autotune": False})
