"""Programs on disk: `program.json` for the graph, `weights.safetensors` for the weights, which stay mapped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch.fx import Node

from llmc.errors import ArtifactError, LLMCError
from llmc.ir import formats
from llmc.ir.edit import Editor
from llmc.ir.op import lookup
from llmc.ir.program import Program, origin_of
from llmc.ir.score import ScoreExpr
from llmc.ir.tensor_file import DTYPE_CODES, write_weights
from llmc.ir.types import TOKENS, Origin, TensorType
from llmc.ir.weights import Loaded, opened, stamp_of

VERSION = 2
GRAPH_FILE, WEIGHTS_FILE = "program.json", "weights.safetensors"
STORED_DTYPES = {code: dtype for dtype, code in DTYPE_CODES.items()}


def save(program: Program, folder: Path) -> None:
    """Write both files into the folder, which is made if needed; those that are there are replaced once both are complete.

    The folder may be the one that the program was loaded from. Raises ArtifactError if a weight can no longer be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = {folder / name: folder / f".{name}.{os.getpid()}" for name in (GRAPH_FILE, WEIGHTS_FILE)}
    try:
        made[folder / GRAPH_FILE].write_text(json.dumps(to_json(program), indent=1) + "\n")
        write_weights(program.weights, made[folder / WEIGHTS_FILE])
        for path, temporary in made.items():
            temporary.replace(path)
    finally:
        for temporary in made.values():
            temporary.unlink(missing_ok=True)


def to_json(program: Program) -> dict[str, Any]:
    """The graph, with types of weights but not their numbers."""
    nodes = []
    for node in program.nodes:
        origin = origin_of(node)
        nodes.append(
            {
                "name": node.name,
                "op": node.target.name,  # type: ignore[union-attr]
                "operands": [_operand(arg) for arg in node.args],
                "attributes": {key: _attribute(value) for key, value in node.kwargs.items()},
                "origin": [origin.module, origin.source, list(origin.passes)],
            }
        )
    weights = {
        name: {"shape": list(weight.shape), "format": formats.to_json(weight.format)}
        for name, weight in program.weights.items()
    }
    outputs = {name: node.name for name, node in zip(program.outputs, program.results, strict=True)}
    inputs = {name: [kind.dtype, list(kind.fixed)] for name, kind in program.inputs.items()}
    return {"version": VERSION, "inputs": inputs, "weights": weights, "nodes": nodes, "outputs": outputs}


def _operand(arg: Any) -> Any:
    if isinstance(arg, Node):
        return {"weight": arg.target} if arg.op == "get_attr" else {"node": arg.name}
    return arg


def _attribute(value: Any) -> Any:
    if isinstance(value, ScoreExpr):
        return {"score": value.to_json()}
    return list(value) if isinstance(value, tuple) else value


def load(folder: Path) -> Program:
    """Read a program. Raises ArtifactError if a file is missing or damaged, or says what cannot be."""
    path = folder / GRAPH_FILE
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot read the program: {error}") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        found = data.get("version") if isinstance(data, dict) else None
        raise ArtifactError(f"{path}: this is version {found}; version {VERSION} is needed. Compile the model again")
    try:
        return _build(data, folder / WEIGHTS_FILE)
    except LLMCError as error:
        raise ArtifactError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{path}: malformed program: {type(error).__name__}: {error}") from error


def _build(data: dict[str, Any], weights_path: Path) -> Program:
    editor = Editor()
    stored = _stored_tensors(weights_path)
    for name, described in data["weights"].items():
        editor.weights[name] = _weight(name, described, stored, weights_path)
    values: dict[str, Node] = {}
    for name, (dtype, sizes) in data["inputs"].items():
        values[name] = editor.input(str(name), TensorType(str(dtype), (TOKENS, *map(int, sizes))))

    def operand(item: Any) -> Any:
        if isinstance(item, dict):
            return editor.named_weight(item["weight"]) if "weight" in item else values[item["node"]]
        return item

    for item in data["nodes"]:
        module, source, passes = item["origin"]
        editor.origin = Origin(str(module), str(source), tuple(map(str, passes)))
        attributes = {key: _from_json(value) for key, value in item["attributes"].items()}
        node = editor.named_op(str(item["name"]), lookup(item["op"]), *map(operand, item["operands"]), **attributes)
        values[item["name"]] = node
    editor.outputs = tuple(data["outputs"])
    editor.graph.output(tuple(values[name] for name in data["outputs"].values()))
    return editor.finish()


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return ScoreExpr.from_json(value["score"])
    return tuple(value) if isinstance(value, list) else value


def _stored_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    try:
        handle = opened(path, stamp_of(path))
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
        return {name: (STORED_DTYPES.get(s.get_dtype(), s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}
    except Exception as error:  # safetensors raises its own type, not an exception class of Python's
        raise ArtifactError(f"{path}: cannot read the weights: {error}") from error


def _weight(name: str, described: Any, stored: dict[str, tuple[str, tuple[int, ...]]], path: Path) -> Loaded:
    shape, form = tuple(described["shape"]), formats.from_json(described["format"])
    names = {}
    for part, expected in form.components(shape).items():
        key = f"{name}:{part}"
        if stored.get(key) != expected:
            raise ArtifactError(f"weight '{key}' should be {expected} but {path.name} has {stored.get(key)}")
        names[part] = key
    return Loaded(path, names, shape, form)
