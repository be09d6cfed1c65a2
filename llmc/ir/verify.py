"""The rules every program keeps, proved again after each pass."""

from __future__ import annotations

from torch.fx import Node

from llmc.errors import VerificationError
from llmc.ir.op import OPS, Op
from llmc.ir.program import Program, operand_types, origin_of, type_of
from llmc.ir.types import INPUTS, TOKENS


def verify(program: Program) -> None:
    """Raise VerificationError at the first node that breaks a rule.

    The schema and type rule of each op hold, so tokens stay apart everywhere but in attention; weights exist and have the
    types that nodes claim; nodes are in order; outputs are one entry a requested row or token, each under a name of its own;
    inputs are known ones.
    """
    seen: set[Node] = set()
    for node in program.graph.nodes:
        try:
            _check(program, node, seen)
        except VerificationError as error:
            raise VerificationError(f"node '{node.name}' of {origin_of(node)}: {error}") from error
        seen.add(node)


def _check(program: Program, node: Node, seen: set[Node]) -> None:
    if node.op == "output":
        results = node.args[0]
        if not isinstance(results, tuple) or len(results) != len(program.outputs):
            raise VerificationError(f"the outputs {program.outputs} do not name {results}")
        if len(set(program.outputs)) < len(program.outputs):
            raise VerificationError(f"two outputs have one name: {', '.join(program.outputs)}")
        for result in results:
            if result not in seen or not type_of(result).streams:
                raise VerificationError(f"output {result} is not computed for each token or row")
        return
    if "type" not in node.meta:
        raise VerificationError("it has no type")
    if node.op == "placeholder":
        kind, expected = type_of(node), INPUTS.get(str(node.target), type_of(node))
        if kind != expected or kind.rows != TOKENS:
            raise VerificationError(f"the input '{node.target}' is {kind}, not {expected} with one entry a token")
    elif node.op == "get_attr":
        weight = program.weights.get(str(node.target))
        if weight is None or weight.type != type_of(node):
            raise VerificationError(f"weight '{node.target}' is {weight}, not {type_of(node)}")
    elif node.op == "call_function":
        if not isinstance(node.target, Op) or OPS.get(node.target.name) is not node.target:
            raise VerificationError(f"'{node.target}' is no op of the dialect")
        for arg in node.all_input_nodes:
            if arg not in seen:
                raise VerificationError(f"it reads '{arg}', which is not computed before it")
        inferred = node.target.infer(operand_types(node), node.kwargs)
        if inferred != type_of(node):
            raise VerificationError(f"it claims to be {type_of(node)} but is {inferred}")
        if not inferred.streams:
            raise VerificationError("it depends on no token; such a value is a weight")
    else:
        raise VerificationError(f"programs have no nodes of kind '{node.op}'")
