"""What llmc is held to."""

from __future__ import annotations

from dataclasses import dataclass, replace

Q4, Q8, TORCH = ("llama.cpp-q4_0",), ("llama.cpp-q8_0",), ("torch-bf16",)
ENCODERS = ("openvino-encoder-int8", "onnxruntime-int8")


@dataclass(frozen=True)
class Target:
    """Of a side at a workload. share: of what the machine allows, at least. ratio: to the fastest of these peers, at least."""

    shape: str
    workload: str
    side: str
    share: float | None = None
    ratio: float | None = None
    peers: tuple[str, ...] = ()


SMALL, LARGE, ENCODER = "smollm2-135m", "llama-3.2-1b", "minilm-l6"
TARGETS = (
    Target(SMALL, "decode-64", "llmc-int4", 0.85, 1.4, Q4),
    Target(SMALL, "decode-64", "llmc-int8", 0.85, 1.4, Q8),
    Target(SMALL, "prefill-512", "llmc-int4", 0.5, 2, Q4),
    Target(SMALL, "prefill-512", "llmc-int8", 0.5, 2, Q8),
    Target(SMALL, "prefill-512", "llmc-int4", None, 1.5, ("openvino-int4",)),
    Target(SMALL, "prefill-512", "llmc-int8", None, 1.5, ("openvino-int8", "torchao-w8a8")),
    Target(SMALL, "prefill-512", "llmc-bf16", None, 1.1, TORCH),
    Target(SMALL, "decode-64x16", "llmc-int4", None, 2, Q4),
    Target(SMALL, "decode-64x16", "llmc-int8", None, 2, Q8),
    Target(SMALL, "decode-4096", "llmc-int4", 0.75),
    Target(SMALL, "decode-4096", "llmc-int8", 0.75),
    Target(LARGE, "decode-64", "llmc-int4", 0.9, 1.1, Q4),
    Target(LARGE, "decode-64", "llmc-int8", 0.9, 1.03, Q8),
    Target(LARGE, "prefill-512", "llmc-int4", 0.5, 2, Q4),
    Target(LARGE, "prefill-512", "llmc-int8", 0.5, 2, Q8),
    Target(LARGE, "decode-64x16", "llmc-int4", None, 2, Q4),
    Target(LARGE, "decode-64x16", "llmc-int8", None, 2, Q8),
    Target(ENCODER, "encode-64", "llmc-int8", None, 1.5, ENCODERS),
)
MEMORY = 120e6
"""Bytes that a process may take beside packed weights, keys and values."""

STAND_INS = {"tiny": SMALL, "tiny-lm": SMALL, "tiny-encoder": ENCODER}
"""Small shapes on which a sitting is tried out, and those in whose place they stand."""


def targets_of(shape: str) -> list[Target]:
    """What is held to with a shape."""
    judged = STAND_INS.get(shape, shape)
    return [replace(target, shape=shape) for target in TARGETS if target.shape == judged]
