"""Whole models, small: two of the library, two as people write them, and the trained one that comes with the sources."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import llmc
from llmc.capture.capture import Captured, capture
from llmc.conformance.modules import LearnedPositions, TrilAttention, library_model
from llmc.ir.program import Program
from llmc.pipeline.recipe import resolve
from llmc.plugins.registry import default

BUNDLED = Path(llmc.__file__).parents[1] / "examples" / "tiny_lm" / "model"
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "library-rope": lambda: library_model("rope", seed=3),
    "library-learned": lambda: library_model("learned", seed=3, n_layer=2),
    "learned": LearnedPositions,
    "tril": TrilAttention,
}
MODELS = (*MAKERS, *(["bundled"] if BUNDLED.is_dir() else []))
RECIPES: dict[str, Any] = {"raw": [], "fuse": "fuse", "bf16": "bf16", "int8": "int8", "int4": "int4"}
"""By name; raw runs no pass, so that no pattern but attention is raised."""
ROUNDING = [("int8", "learned")] + [
    (recipe, name) for recipe in ("bf16", "int8", "int4") for name in ("library-rope", "bundled") if name in MODELS
]
"""Recipes that round, and the models that they are tried on."""

AGAIN = {("raw", "bundled"), ("bf16", "bundled")}
"""Recipes and models that are tried in slow runs only: the same recipe is tried on a small model of the same family, and the
same model with others."""


@cache
def original(name: str) -> nn.Module:
    """The module as it was written or loaded, in float32."""
    if name == "bundled":
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    torch.manual_seed(3)
    return MAKERS[name]().eval()


@cache
def captured(name: str) -> Captured:
    """What capture makes of it."""
    from_library = name.startswith("library") or name == "bundled"
    return capture(original(name), None if from_library else (torch.arange(6)[None],))


@cache
def program(name: str, recipe: str) -> Program:
    """The program after the passes of a recipe."""
    return resolve(RECIPES[recipe]).run(captured(name).program, default()).program


@cache
def _exact(name: str) -> nn.Module:
    return copy.deepcopy(original(name)).double()


def exact(name: str, ids: list[int]) -> NDArray[np.float64]:
    """Logits of the original in float64, `[len, V]`."""
    module, given = _exact(name), torch.tensor(ids)[None]
    with torch.no_grad():
        if isinstance(module, LearnedPositions):
            return module.head(module.hidden(given))[0].numpy()
        out = module(given)
        return (out if isinstance(out, torch.Tensor) else out.logits)[0].numpy()
