"""The walk over the exported graph: each node's rule is applied to labelled values, or the node is refused by name."""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols
from torch.utils import _pytree as pytree

from llmc.capture.axes import Builder, fold
from llmc.capture.precision import HALF
from llmc.capture.rules import IGNORED, MIXERS, load_rules
from llmc.capture.rules.pointwise import dtype_name
from llmc.capture.scores import is_condition
from llmc.capture.values import ONE, TOKEN, Const, Length, Refusal, Scores, Stream, Value, const, index_of, normal
from llmc.errors import CaptureError, VerificationError
from llmc.ir.program import type_of
from llmc.ir.score import ScoreExpr, apply
from llmc.ir.types import TOKENS, Origin, TensorType
from llmc.ir.weights import Stored

PACKAGE = str(Path(__file__).parents[1])
"""Its own frames stand in every trace."""

TAKE_LENGTHS = {
    f"aten::{name}"
    for name in (
        "arange", "full", "ones", "zeros", "new_ones", "new_zeros", "new_full", "view", "reshape", "_unsafe_view", "expand",
        "flatten", "unflatten", "slice", "select", "repeat", "sym_size",
    )
}  # fmt: skip
"""Ops that the length of the sequence may be an argument of: as a size, or as the end of a range."""

INTEGERS: dict[Any, Callable[[Length, Length], Length | None]] = {
    operator.add: lambda a, b: Length(a.scale + b.scale, a.offset + b.offset),
    operator.sub: lambda a, b: Length(a.scale - b.scale, a.offset - b.offset),
    operator.mul: lambda a, b: _product(a, b),
}


def _product(a: Length, b: Length) -> Length | None:
    if a.scale and b.scale:
        return None
    return Length(a.scale * b.offset + b.scale * a.offset, a.offset * b.offset)


class Interpreter:
    """Builds a program from an exported graph whose user inputs are `input_ids` and `others`, `[1, S]` each.

    parameters: by name, in the precision that they have; those of the export may be hollow. whole: sequences may be read as a
    whole. padding: an id that no sequence holds.
    """

    def __init__(
        self,
        exported: torch.export.ExportedProgram,
        prefix: str,
        opaque: dict[str, Callable[..., Any]],
        parameters: Mapping[str, Tensor],
        others: Sequence[str] = (),
        whole: bool = False,
        padding: int | None = None,
    ) -> None:
        self.exported, self.prefix, self.parameters = exported, prefix, parameters
        self.inputs = dict(zip(exported.graph_signature.user_inputs, ("input_ids", *others), strict=True))
        self.builder = Builder(whole, padding)
        self.rules = {**load_rules(), **opaque}
        self.values: dict[Node, Any] = {}

    def run(self) -> list[Stream]:
        """The values that the module returns. Raises CaptureError at the first node not proved to keep positions apart."""
        for node in self.exported.graph.nodes:
            try:
                if node.op == "placeholder":
                    self.values[node] = self.placeholder(node)
                elif node.op != "output" and not _ignored(node):
                    self.builder.editor.origin = self.origin(node)
                    self.values[node] = self.call(node)
                    check_result(self.values[node], node.meta.get("val"))
            except (Refusal, VerificationError) as error:
                raise CaptureError(self.refusal(node, str(error))) from error
            except CaptureError:
                raise
            except Exception as error:  # a form of the op that its rule did not think of
                reason = f"capture does not know this form of it ({type(error).__name__}: {error})"
                raise CaptureError(self.refusal(node, reason)) from error
        return self.results()

    def results(self) -> list[Stream]:
        """What the module returns, each `[1, S, features]`, or without S for the last position alone."""
        signature = self.exported.graph_signature
        changed = {**signature.buffers_to_mutate, **signature.user_inputs_to_mutate}
        nodes = {node.name: node for node in self.exported.graph.nodes}
        for name, target in changed.items():
            reason = f"it changes '{target.removeprefix(self.prefix)}' as it runs; a step must depend on its tokens alone"
            raise CaptureError(self.refusal(nodes[name], reason))
        found = []
        for name in signature.user_outputs:
            value = self.values.get(nodes[name]) if isinstance(name, str) and name in nodes else None
            labels = [dim.label for dim in value.layout if dim.label != "one"] if isinstance(value, Stream) else []
            rows = type_of(value.node).rows if isinstance(value, Stream) else None
            last = labels == ["fixed"] and rows == "R"
            if isinstance(value, Stream) and self.builder.whole and (rows == "S" or labels[:1] == ["token"]):
                found.append(value)
                continue
            if self.builder.whole:
                raise CaptureError(
                    f"the module returns {describe_value(value)}; outputs must have one entry a token, [1, S, ...], or be of "
                    "the whole sequence, [1, ...]"
                )
            if not isinstance(value, Stream) or not (labels == ["token", "fixed"] or last):
                raise CaptureError(
                    f"the module returns {describe_value(value)}; logits must be [1, S, vocabulary], one row a position, "
                    "or the row of the last position"
                )
            found.append(value)
        return found

    def placeholder(self, node: Node) -> Any:
        """A parameter, a buffer, a lifted constant or the ids."""
        signature = self.exported.graph_signature
        for table, real in (
            (signature.inputs_to_parameters, False),
            (signature.inputs_to_buffers, True),
            (signature.inputs_to_lifted_tensor_constants, True),
        ):
            if node.name in table:
                name = table[node.name]
                places = (self.parameters, self.exported.state_dict, self.exported.constants)
                tensor = next(place[name] for place in places if place.get(name) is not None)
                return const(Stored(tensor.detach()), name.removeprefix(self.prefix), real)
        name = self.inputs[node.name]
        return Stream((ONE, TOKEN), self.builder.editor.input(name, TensorType("int64", (TOKENS,))))

    def call(self, node: Node) -> Any:
        """The value of a call."""
        args = pytree.tree_map_only(Node, self.values.__getitem__, node.args)
        kwargs = pytree.tree_map_only(Node, self.values.__getitem__, dict(node.kwargs))
        if node.target is operator.getitem:
            return args[0][args[1]]
        flat = pytree.tree_leaves((args, kwargs))
        if any(isinstance(value, Length) for value in flat) and node.target in INTEGERS:
            result = INTEGERS[node.target](*(Length.of(value) for value in args))
            if result is None:
                raise Refusal("arithmetic on the length of the sequence that is not linear")
            return Length.plain(result.scale, result.offset)
        if not isinstance(node.target, torch._ops.OpOverload):
            if not any(isinstance(value, Value | Length) for value in flat):
                return node.target(*args, **kwargs)  # type: ignore[operator]
            raise Refusal(f"{node.target} on the length of the sequence")
        values = [value for value in flat if isinstance(value, Value)]
        if values and all(isinstance(value, Const) for value in values) and not any(isinstance(v, Length) for v in flat):
            return self.folded(node, args, kwargs)
        name = node.target._schema.name
        if name not in self.rules:
            raise Refusal(self.unknown(node, values))
        dtype = getattr(node.meta.get("val"), "dtype", None)
        if dtype in HALF:
            args = pytree.tree_map_only(Scores, partial(rounded, dtype=dtype), args)
        if name not in TAKE_LENGTHS and any(isinstance(value, Length) for value in flat):
            raise Refusal("it mixes positions: the length of the sequence, known only at its end, enters the computation")
        rule = self.rules[name]
        if "name" in inspect.signature(rule).parameters:
            kwargs["name"] = name.split("::")[1]
        result = rule(self.builder, *args, **kwargs)
        return rounded(result, dtype) if dtype in HALF and isinstance(result, Scores) else result

    def folded(self, node: Node, args: Any, kwargs: Any) -> Any:
        """A call on constants alone: made now if they are no parameters, else when the result is needed."""
        leaves, spec = pytree.tree_flatten((args, kwargs))

        def compute(*values: Any) -> Tensor:
            given, named = pytree.tree_unflatten(list(values), spec)
            return node.target(*given, **named)  # type: ignore[operator]

        returns = node.target._schema.returns  # type: ignore[union-attr]
        if len(returns) != 1 or str(returns[0].type) != "Tensor":
            if str(returns[0].type) in ("int", "SymInt") or node.target._schema.name == "aten::sym_size":  # type: ignore[union-attr]
                return args[0].shape[args[1]]
            pieces = node.meta["val"]
            return [fold(f"{node.name}.{i}", lambda *v, i=i: compute(*v)[i], leaves) for i in range(len(pieces))]
        names = [leaf.name for leaf in leaves if isinstance(leaf, Const)]
        return fold(f"{names[0]}.{node.name}", compute, leaves)

    def unknown(self, node: Node, values: list[Value]) -> str:
        """Why an op without a rule cannot be captured."""
        schema = node.target._schema  # type: ignore[union-attr]
        given = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        given |= dict(zip((argument.name for argument in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
        dims: Any = next((given[name] for name in ("dim", "dims", "dimension") if name in given), None)
        dims = [dims] if isinstance(dims, int) else dims
        for value in values:
            place, rank = index_of(value.layout, "token"), len(value.layout)
            along = not dims or place in [normal(dim, rank) for dim in dims]
            if schema.name.split("::")[1] in MIXERS and place is not None and along:
                return "it mixes positions"
        return "capture has no rule for it"

    def origin(self, node: Node) -> Origin:
        """Module path and source line of an exported node."""
        stack = node.meta.get("nn_module_stack") or {}
        path = next((entry[0] for entry in reversed(list(stack.values())) if isinstance(entry, tuple)), "")
        frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', node.meta.get("stack_trace") or "")
        own = [frame for frame in frames if "/torch/" not in frame[0] and not frame[0].startswith(PACKAGE)]
        source = f"{own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]}" if own else ""
        return Origin(path.removeprefix(self.prefix.rstrip(".")).lstrip("."), source)

    def refusal(self, node: Node, reason: str) -> str:
        """The whole message for a node that cannot be captured."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        origin = self.origin(node)
        kind = stack[-1][1].rsplit(".", 1)[-1] if stack and isinstance(stack[-1][1], str) else ""
        operation = str(getattr(node.target, "_schema", node.target)).split("(")[0].replace("aten::", "aten.").split(" ")[0]
        where = f"\n  at {origin.source} in {kind}.forward" if origin.source else ""
        problem = "cannot capture" if self.builder.whole else "cannot derive a KV cache for"
        return f"{problem} '{origin.module or kind}' ({operation}, node '{node.name}'): {reason}.{where}"


def _ignored(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name.split("::")[1] in IGNORED


def rounded(x: Scores, dtype: torch.dtype) -> Scores:
    """Numbers of positions in half precision, where the module asks for it: too few digits to be taken for float32.

    Raises Refusal for those in float16.
    """

    def each(expr: ScoreExpr) -> ScoreExpr:
        if expr.kind in ("const", "bfloat16") or is_condition(expr):
            return expr
        if expr.kind == "where":
            return apply("where", expr.args[0], *map(each, expr.args[1:]))
        if dtype == torch.float16:
            raise Refusal("positions are made float16, in which those beyond 2048 are rounded; keep them in float32")
        return apply("bfloat16", expr)

    if x.source is not None or x.dtype == "bool":
        return x
    expr = each(x.expr)
    return x if expr == x.expr else Scores(x.layout, expr, "float32")


def check_result(value: Any, expected: Any) -> None:
    """Compare what a rule made with the shape and dtype that were seen while exporting. Raises Refusal if they differ."""
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        for part, shape in zip(value, expected, strict=False):
            check_result(part, shape)
    elif isinstance(value, Value) and isinstance(expected, Tensor):
        sizes = ["S" if isinstance(size, Length) else size for size in value.sizes]
        seen = zip(expected.shape, [*sizes, *[None] * expected.ndim], strict=False)
        shape = [size if isinstance(size, int) else own if free_unbacked_symbols(size) else "S" for size, own in seen]
        if sizes != shape:
            raise Refusal(f"its result is {shape}, but for one token at a time it would be {sizes}")
        dtype = "float32" if expected.is_floating_point() else "bool" if expected.dtype == torch.bool else "int64"
        if dtype_name(value) != dtype:
            raise Refusal(f"its result is of {dtype}, but its rule gives {dtype_name(value)}")


def describe_value(value: Any) -> str:
    """A value for messages."""
    return type(value).__name__ if not isinstance(value, Value) else f"[{', '.join(map(str, value.layout))}]"
