"""ONNX Runtime with its fused attention and dynamic quantization to int8."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Side
from benchmarks.peers.padded import PaddedEncoder, Rectangle

SIDES = (Side("onnxruntime-int8", "ONNX Runtime int8", "onnxruntime_cpu", "int8", "int8", encoder=True, decoder=False),)
PACKAGES = ["onnxruntime", "onnx", "onnxscript", "onnx-ir", "protobuf", "flatbuffers", "ml-dtypes", "sympy"]


def install(folder: Path) -> None:
    """Into a folder beside the packages of this interpreter, whose torch exports the model."""
    from benchmarks.install import run

    run(sys.executable, "-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", folder, *PACKAGES)


def launch(folder: Path) -> tuple[str, dict[str, str]]:
    return sys.executable, {"PYTHONPATH": str(folder)}


class PeerEngine(PaddedEncoder):
    """Of each copy a session that takes all threads, and one that runs on those that call it."""

    @staticmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        import onnx
        import torch
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.transformers.optimizer import optimize_model
        from transformers import AutoModel

        model = AutoModel.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()

        class Hidden(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
                return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

        exported, fused = (target.with_name(f"{target.name}.{name}.onnx") for name in ("exported", "fused"))
        ids = torch.ones((2, 16), dtype=torch.int64)
        names = ["input_ids", "attention_mask"]
        axes = {name: {0: "batch", 1: "length"} for name in names}
        torch.onnx.export(
            Hidden(), (ids, ids), str(exported), input_names=names, output_names=["hidden"], dynamic_axes=axes, dynamo=False
        )  # fmt: skip
        heads, width = model.config.num_attention_heads, model.config.hidden_size
        better = optimize_model(str(exported), model_type="bert", num_heads=heads, hidden_size=width)
        print("fused:", better.get_fused_operator_statistics())
        better.save_model_to_file(str(fused))
        more = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of values that fused ops give
        quantize_dynamic(str(fused), str(target), weight_type=QuantType.QInt8, reduce_range=False, extra_options=more)
        exported.unlink()
        fused.unlink()

    def load(self, model: Path, copies: int, threads: int) -> None:
        import onnxruntime

        def sessions(threads: int) -> list[Any]:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            return [onnxruntime.InferenceSession(str(model), options) for _ in range(copies)]

        self.together, self.alone = sessions(threads), sessions(1)
        self.callers = ThreadPoolExecutor(threads)
        self.vocab = 30000

    def forward(self, copy: int, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
        self.together[copy].run(None, {"input_ids": ids, "attention_mask": mask})

    def forward_apart(self, copy: int, rectangles: list[Rectangle]) -> None:
        def one(rectangle: Rectangle) -> None:
            self.alone[copy].run(None, dict(zip(("input_ids", "attention_mask"), rectangle, strict=True)))

        list(self.callers.map(one, rectangles))
