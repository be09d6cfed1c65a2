"""What ops may be given: whatever the type rule of an op lets pass, its reference semantics computes, in the type inferred."""

import itertools

import pytest
import torch

from llmc.errors import VerificationError
from llmc.ir import ops
from llmc.ir.op import OPS, Op
from llmc.ir.score import CAUSAL, FALSE, HEAD, SCORE, TRUE, K, Q, ScoreExpr, apply, const, per_head
from llmc.ir.types import TensorType
from llmc.ir.weights import Stored
from tests.passes.programs import Maker, program

ROWS = 3
DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
STREAMS = [TensorType(dtype, ("T", *shape)) for dtype in DTYPES for shape in ((), (1,), (4,), (2, 4))]
WEIGHTS = [TensorType(dtype, shape) for dtype in DTYPES for shape in ((), (4,), (2, 4), (4, 4))]
NUMBERS = [2, 2.5, True, None, -1, 0]
ANYTHING = [*STREAMS, *WEIGHTS, *NUMBERS]


def pairs(first, second):
    return [(a, b) for a, b in itertools.product(first, second) if getattr(a, "streams", False) or getattr(b, "streams", False)]


def cases():
    """`(op, operands, attributes)`, some that make sense and many that do not."""
    for name in ops.UNARY:
        yield from ((name, (x,), {}) for x in ANYTHING)
    for name in ops.BINARY:
        yield from ((name, pair, {}) for pair in pairs(ANYTHING, ANYTHING))
    for x in STREAMS:
        yield "logical_not", (x,), {}
        yield "gelu", (x,), {"approximate": "none"}
        yield from ((name, (x,), {"to": "int8"}) for name in ("round_rows", "rounded_silu", "rounded_relu"))
        yield "rounded_gelu", (x,), {"approximate": "none", "to": "int8"}
        yield from (("cast", (x,), {"dtype": dtype}) for dtype in DTYPES)
        for name, dims, keep in itertools.product(ops.REDUCTIONS, ((1,), (1, 2), (-1,), (0,), ()), (True, False)):
            yield name, (x,), {"dims": dims, "keepdim": keep}
        yield from (("softmax", (x,), {"dim": dim}) for dim in (0, 1, -1))
        for other in [*WEIGHTS, *NUMBERS]:
            yield "linear", (x, other), {}
            yield "linear", (x, TensorType("float32", (4, 4)), other), {}
            yield "embedding", (x, other), {}
            yield "gated_linear", (x, other), {"activation": "silu"}
            yield "rms_norm", (x, other), {"eps": 1e-5}
            yield "layer_norm", (x, TensorType("float32", (4,)), other), {"eps": 1e-5}
            yield from norms(x, other)
        yield from ((name, (x,), {"k": 2}) for name in ("top_k", "top_k_indices"))
        for other in STREAMS:
            yield "expert_linear", (x, other, TensorType("float32", (8, 4))), {"experts": 2}
            yield "matmul", (TensorType(x.dtype, ("T", 2, 4)), TensorType(other.dtype, ("T", 4, 2))), {}
            yield "gated", (x, other), {"activation": "silu"}
            yield "rounded_gated", (x, other), {"activation": "silu", "to": "int8"}
            yield from (("add_rms_norm", (x, other), {"eps": 1e-5}), ("add_layer_norm", (x, other), {"eps": 1e-5}))
            yield "concat", (x, other), {"dim": 1}
            yield "rope", (TensorType(x.dtype, ("T", 2, 8)), other, other), {"layout": "halves"}
        for shape in ((0,), (4,), (2, 4), (-1,), (-1, 4), (3, 4)):
            yield from ((name, (x,), {"shape": shape}) for name in ("expand", "reshape"))
        yield "permute", (x,), {"dims": (2, 1)}
        yield "slice", (x,), {"dim": 1, "start": 0, "stop": 3, "step": 2}
    conditions, first, second = [*STREAMS[4:], True, None], [*STREAMS[:6], 2.5, True, None], [0, *STREAMS[:5]]
    yield from (("where", operands, {}) for operands in itertools.product(conditions, first, second))


def norms(x, weight):
    """The fused forms."""
    attributes = {"eps": 1e-5, "to": "int8"}
    for kind, operands in (("rms", (weight,)), ("layer", (weight, weight))):
        yield f"rounded_{kind}_norm", (x, *operands), attributes
        yield f"rounded_add_{kind}_norm", (x, x, *operands), attributes


def example(kind):
    """A tensor of a type, all numbers 0 or 1, which index any table."""
    if not isinstance(kind, TensorType):
        return kind
    shape = [ROWS if isinstance(size, str) else size for size in kind.shape]
    return torch.randint(0, 2, shape).to(DTYPES[kind.dtype])


def test_every_op_computes_what_its_type_rule_lets_pass():
    passed, wrong = set(), []
    for name, operands, attributes in cases():
        op: Op = OPS[name]
        try:
            kind = op.infer(list(operands), attributes)
        except VerificationError:
            continue
        value = op.reference(*map(example, operands), **attributes)
        if value.dtype != DTYPES[kind.dtype] or value.shape != example(kind).shape:
            wrong.append((name, operands, kind, value.dtype, value.shape))
        passed.add(name)
    assert not wrong
    assert passed == set(OPS) - {"attention", "pool", "rope_attention", "select_rows"}


def heads(m):
    return m.op(ops.reshape, m.x, shape=(2, 12))


def whole(m):
    return m.op(ops.cast, m.x, dtype="int64")


def attend(score=SCORE, admits=CAUSAL):
    return lambda m: m.op(ops.attention, heads(m), heads(m), heads(m), scale=1.0, score=score, admits=admits)


REFUSED = {
    "linear-number": (lambda m: m.op(ops.linear, m.x, 3.0), "linear: 'weight' must be a value, not 3.0"),
    "norm-number": (lambda m: m.op(ops.rms_norm, m.x, 2, eps=1e-5), "'weight' must be a value"),
    "embedding-number": (lambda m: m.op(ops.embedding, m.input("input_ids"), 2), "'table' must be a value"),
    "where-number": (lambda m: m.op(ops.where, True, m.x, 0.0), "'condition' must be a value, not True"),
    "add-none": (lambda m: m.op(ops.add, None, m.x), "add needs its operand 'a'"),
    "where-none": (lambda m: m.op(ops.where, m.op(ops.gt, m.x, 0), None, m.x), "where needs its operand 'a'"),
    "linear-whole-weight": (
        lambda m: m.op(ops.linear, m.x, m.weight(Stored(torch.ones(3, 24, dtype=torch.int64)), "w")), "float32, got i64"
    ),
    "silu-whole": (lambda m: m.op(ops.silu, whole(m)), "silu computes with float32"),
    "softmax-whole": (lambda m: m.op(ops.softmax, whole(m), dim=1), "softmax computes with float32"),
    "mean-whole": (lambda m: m.op(ops.mean, whole(m), dims=(1,), keepdim=True), "mean computes with float32"),
    "neg-bool": (lambda m: m.op(ops.neg, m.op(ops.gt, m.x, 0)), "neg computes with numbers, got bool"),
    "eps-node": (lambda m: m.op(ops.rms_norm, m.x, eps=m.x), "'eps' must be of type float"),
    "eps-text": (lambda m: m.op(ops.rms_norm, m.x, eps="a"), "'eps' must be of type float, not 'a'"),
    "dim-bool": (lambda m: m.op(ops.softmax, m.x, dim=True), "'dim' must be of type int, not True"),
    "expand-nothing": (lambda m: m.op(ops.expand, m.x, shape=(0,)), "sizes above zero"),
    "score-text": (attend("s"), "'score' must be of type ScoreExpr"),
    "score-unknown": (attend(ScoreExpr("nope")), "no function 'nope' of 0 arguments"),
    "score-arity": (attend(ScoreExpr("add", (SCORE,))), "no function 'add' of 1 arguments"),
    "score-condition": (attend(CAUSAL), "the score must be a number"),
    "score-heads": (attend(apply("mul", SCORE, per_head([1.0]))), "1 heads, but there are 2"),
    "score-where-number": (attend(apply("where", SCORE, SCORE, const(0.0))), "it cannot be evaluated"),
    "admits-number": (attend(admits=apply("sub", Q, K)), "later positions|must be a condition"),
    "admits-score": (attend(admits=apply("logical_and", CAUSAL, apply("gt", SCORE, const(0)))), "must not depend on the score"),
    "admits-nothing": (attend(admits=FALSE), "position 0 does not admit itself"),
    "admits-only-earlier": (attend(admits=apply("lt", K, Q)), "position 0 does not admit itself"),
    "admits-some-heads": (
        attend(admits=apply("logical_and", CAUSAL, apply("eq", HEAD, const(0)))), "does not admit itself in head 1"
    ),
    "admits-up-to": (attend(admits=apply("logical_and", CAUSAL, apply("lt", Q, const(1000)))), "position 1023 does not admit"),
    "admits-everything": (attend(admits=TRUE), "later positions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operand_or_attribute_of_another_kind_is_refused(name):
    make, message = REFUSED[name]
    with pytest.raises(VerificationError, match=message):
        make(Maker())


def test_attributes_set_behind_the_editor_are_refused_by_the_verifier():
    editor = program(lambda m: m.op(ops.sum_, heads(m), dims=(1,), keepdim=False)).edit()
    node = editor.nodes[-1]
    node.kwargs = {**node.kwargs, "dims": [1.5]}
    with pytest.raises(VerificationError, match=r"node 'sum_1' of \?: sum: the attribute 'dims' must be of type"):
        editor.finish()


def test_two_outputs_of_one_name_are_refused():
    maker = Maker()
    maker.outputs = ("a", "a")
    maker.graph.output((maker.op(ops.relu, maker.x), maker.op(ops.sin, maker.x)))
    with pytest.raises(VerificationError, match="two outputs have one name"):
        maker.finish()


def test_input_of_an_unknown_name_needs_a_type():
    with pytest.raises(VerificationError, match="'token_type' needs a type"):
        Maker().input("token_type")


@pytest.mark.parametrize("kind", [TensorType("float32", ("R", 4)), TensorType("float32", (4,))])
def test_input_without_an_entry_for_each_token_is_refused(kind):
    maker = Maker()
    maker.outputs = ("a",)
    maker.graph.output((maker.op(ops.relu, maker.x),))
    maker.graph.output_node().args = ((maker.input("gates", kind),),)
    with pytest.raises(VerificationError, match="one entry a token"):
        maker.finish()
