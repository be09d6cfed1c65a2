"""All sides of the comparison, and how each is installed and started."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

from benchmarks.peers import llama_cpp, llmc_cpu, onnxruntime_cpu, openvino_cpu, openvino_encoder, torch_compiled, torch_cpu
from benchmarks.peers.base import Side

MODULES = (llmc_cpu, llama_cpp, openvino_cpu, torch_cpu, torch_compiled, onnxruntime_cpu, openvino_encoder)
SIDES: dict[str, Side] = {side.key: side for module in MODULES for side in module.SIDES}


def module_of(side: Side) -> ModuleType:
    """What a peer's module brings: `PeerEngine`, and if it is to be installed, `install(folder)` and `launch(folder)`."""
    return importlib.import_module(f"benchmarks.peers.{side.peer}")


def folder_of(side: Side, home: Path) -> Path:
    """Where a peer is installed."""
    return home / "peers" / side.peer


def launch(side: Side, home: Path) -> tuple[str, dict[str, str]]:
    """The interpreter that runs a side, and the environment variables that it needs."""
    module = module_of(side)
    if hasattr(module, "launch"):
        return module.launch(folder_of(side, home))
    return sys.executable, {}
