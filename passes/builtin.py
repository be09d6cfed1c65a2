"""The passes and recipes that come with llmc."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmc.plugins.hooks import hookimpl

FUSE = [
    "canonicalize",
    "raise-norms",
    "raise-rope",
    "raise-activations",
    "raise-gated",
    "fuse-qkv",
    "fuse-gate-up",
]


@hookimpl
def llmc_passes(register: Callable[[str, str], None]) -> None:
    """Canonicalization and raising, fusion, quantization."""
    register("canonicalize", "llmc.passes.canonical.canonicalize:Canonicalize")
    register("raise-norms", "llmc.passes.canonical.norms:RaiseNorms")
    register("raise-rope", "llmc.passes.canonical.rope:RaiseRope")
    register("raise-activations", "llmc.passes.canonical.activations:RaiseActivations")
    register("raise-gated", "llmc.passes.canonical.gated:RaiseGated")
    register("fuse-qkv", "llmc.passes.fusion.qkv:FuseQKV")
    register("fuse-gate-up", "llmc.passes.fusion.gate_up:FuseGateUp")
    register("fuse-residual-norm", "llmc.passes.fusion.residual_norm:FuseResidualNorm")
    register("fuse-gated-linear", "llmc.passes.fusion.gated_linear:FuseGatedLinear")
    register("fuse-rounding", "llmc.passes.fusion.rounding:FuseRounding")
    register("fuse-rope-cache", "llmc.passes.fusion.rope_cache:FuseRopeCache")
    register("cast-bfloat16", "llmc.passes.quantization.cast_bfloat16:CastBfloat16")
    register("quantize-kv", "llmc.passes.quantization.quantize_kv:QuantizeKV")
    register("quantize", "llmc.passes.quantization.quantize:Quantize")


@hookimpl
def llmc_recipes(register: Callable[[str, list[Any], str], None]) -> None:
    """From nothing at all to four bits, each but the first on top of `fuse`."""
    register("none", [], "The graph as it was captured, op by op; to compare with.")
    register("fuse", FUSE, "Raise and merge; weights stay as they are, no number changes beyond rounding.")
    register("bf16", [*FUSE, "cast-bfloat16"], "Weights and what they are multiplied with in bfloat16: half of the bytes.")
    eight = {"name": "quantize", "bits": 8}
    register(
        "int8",
        [*FUSE, eight, "fuse-gated-linear", "fuse-rounding"],
        "Weights and activations in 8 bits: a quarter of the bytes.",
    )
    four = {"name": "quantize", "bits": 4, "group_size": 32, "embeddings": True}
    register(
        "int4",
        [*FUSE, four, "fuse-gated-linear", "fuse-rounding"],
        "Weights in 4 bits by groups of 32, head and tables too; activations in 8: a seventh of the bytes.",
    )
