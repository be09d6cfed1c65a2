"""OpenVINO with an encoder in int8, activations included, calibrated on random ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.base import Side
from benchmarks.peers.openvino_cpu import compiled, installed, launched
from benchmarks.peers.padded import PaddedEncoder, Rectangle

SIDES = (Side("openvino-encoder-int8", "OpenVINO int8", "openvino_encoder", "int8", "int8", encoder=True, decoder=False),)


def install(folder: Path) -> None:
    installed(folder)


def launch(folder: Path) -> tuple[str, dict[str, str]]:
    return launched(folder)


class PeerEngine(PaddedEncoder):
    """Of each copy a compiled model whose requests take all threads, and one with a stream for each thread."""

    @staticmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        import nncf
        import openvino
        from optimum.intel import OVModelForFeatureExtraction

        model = OVModelForFeatureExtraction.from_pretrained(checkpoint, export=True, compile=False).model
        names = [port.get_any_name() for port in model.inputs]
        random = np.random.default_rng(0)

        def sample(length: int) -> dict[str, NDArray[np.int64]]:
            given = {name: np.ones((1, length), np.int64) for name in names}
            return {
                **given, "token_type_ids": np.zeros((1, length), np.int64), "input_ids": random.integers(1, 500, (1, length)),
            } if "token_type_ids" in names else {**given, "input_ids": random.integers(1, 500, (1, length))}  # fmt: skip

        data = nncf.Dataset([sample(length) for length in random.integers(8, 120, 32)])
        quantized = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=32)
        target.mkdir()
        openvino.save_model(quantized, target / "model.xml")

    def load(self, model: Path, copies: int, threads: int) -> None:
        from openvino import AsyncInferQueue

        path = model / "model.xml"
        self.requests = [compiled(path, threads).create_infer_request() for _ in range(copies)]
        self.queues = [AsyncInferQueue(compiled(path, threads, streams=threads), threads) for _ in range(copies)]
        self.typed = any(port.get_any_name() == "token_type_ids" for port in self.requests[0].model_inputs)
        self.vocab = 30000

    def given(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """The model's inputs by name."""
        types = {"token_type_ids": np.zeros_like(ids)} if self.typed else {}
        return {"input_ids": ids, "attention_mask": mask, **types}

    def forward(self, copy: int, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> None:
        self.requests[copy].infer(self.given(ids, mask), share_inputs=True, share_outputs=True)

    def forward_apart(self, copy: int, rectangles: list[Rectangle]) -> None:
        inputs = [self.given(*rectangle) for rectangle in rectangles]  # kept until they were read
        for given in inputs:
            self.queues[copy].start_async(given, share_inputs=True)
        self.queues[copy].wait_all()
