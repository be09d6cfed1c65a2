"""Every op of the table against the dialect's reference semantics in float64, and their dtypes against those in float32."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from llmc_xla.executable import semantics
from llmc_xla.formats import Matrix
from llmc_xla.ops import OPS, READ_AS_STORED
from llmc_xla.step import LOWERED

from llmc.ir import ops
from llmc.ir.op import OPS as DIALECT

torch.manual_seed(1)
X, Y, Z = torch.randn(5, 3, 12), torch.randn(5, 3, 12), torch.randn(5, 3, 12)
POSITIVE = X.abs() + 0.1
WHOLE, EXPONENTS = torch.randint(-9, 9, (5, 3, 12)), torch.randint(-3, 6, (5, 3, 12))
BOOLS = X > 0
ANGLES = torch.randn(5, 4)
COS, SIN = ANGLES.cos(), ANGLES.sin()
ROW, TABLE = torch.randn(12), torch.randn(19, 12)
IDS = torch.randint(0, 19, (5, 3))
CHOSEN, MATRICES = torch.randint(0, 4, (5, 3)), torch.randn(20, 12)


def each(names, *operands):
    return {f"{name}-{i}": (name, args, {}) for name in names for i, args in enumerate(operands)}


CASES = {
    **each(sorted(set(ops.UNARY) - {"log", "sqrt", "rsqrt"}), (X,)),
    **each(["log", "sqrt", "rsqrt"], (POSITIVE,), (WHOLE.abs() + 1,)),
    **each(["neg", "abs", "relu", "exp", "cos", "tanh"], (X,), (WHOLE,)),
    **each(["add", "sub", "mul", "maximum", "minimum"], (X, Y), (X, 2), (1.5, X), (WHOLE, WHOLE), (WHOLE, X), (2, WHOLE)),
    **each(["eq", "ne", "lt", "le", "gt", "ge"], (X, Y), (WHOLE, EXPONENTS), (WHOLE, 0.5), (BOOLS, 1), (X, 0)),
    **each(["add", "mul", "maximum", "minimum"], (BOOLS, Y > 0), (BOOLS, 3), (BOOLS, X), (WHOLE, 0.25)),
    **each(["div"], (X, Y), (X, 3), (WHOLE, 7), (1, WHOLE.abs() + 1), (BOOLS, POSITIVE)),
    **each(["pow"], (POSITIVE, Y), (X, 2), (X, 3.0), (2.0, X), (WHOLE, EXPONENTS), (WHOLE, 2), (2.0, EXPONENTS)),
    **each(["logical_and", "logical_or"], (BOOLS, Y > 0), (WHOLE, X)),
    **each(["logical_not"], (BOOLS,), (WHOLE,), (X,)),
    **each(["where"], (BOOLS, X, Y), (BOOLS, 1.5, WHOLE), (BOOLS, WHOLE, 0), (BOOLS, Y > 0, WHOLE)),
    "cast-int": ("cast", (X * 5,), {"dtype": "int64"}),
    "cast-bool": ("cast", (WHOLE,), {"dtype": "bool"}),
    "cast-float": ("cast", (BOOLS,), {"dtype": "float32"}),
    "gelu": ("gelu", (X,), {"approximate": "none"}),
    "gelu-tanh": ("gelu", (X,), {"approximate": "tanh"}),
    **{f"gated-{name}": ("gated", (X, Y), {"activation": name}) for name in
       ("silu", "relu", "gelu", "gelu_tanh", "sigmoid", "tanh")},
    "embedding": ("embedding", (IDS, TABLE), {}),
    "linear": ("linear", (X, TABLE), {}),
    "linear-bias": ("linear", (X, TABLE, torch.randn(19)), {}),
    "linear-rounded": ("linear", (X, TABLE), {"activations": "int8"}),
    **{f"round_rows-{to}": ("round_rows", (X,), {"to": to}) for to in ("bfloat16", "int8")},
    "top_k": ("top_k", (X,), {"k": 4}),
    "top_k_indices": ("top_k_indices", (X,), {"k": 4}),
    "expert_linear": ("expert_linear", (X, CHOSEN, MATRICES), {"experts": 4}),
    "expert_linear-bias": ("expert_linear", (X[:, 0], CHOSEN, MATRICES, torch.randn(20)), {"experts": 4}),
    "matmul": ("matmul", (X, Y.transpose(1, 2)), {}),
    "matmul-broadcast": ("matmul", (X[:, None].repeat(1, 2, 1, 1), Y.transpose(1, 2)[:, None]), {}),
    "rms_norm": ("rms_norm", (X, ROW), {"eps": 1e-5}),
    "rms_norm-plain": ("rms_norm", (X,), {"eps": 1e-3}),
    "layer_norm": ("layer_norm", (X, ROW, ROW), {"eps": 1e-5}),
    "layer_norm-no-bias": ("layer_norm", (X, ROW), {"eps": 1e-5}),
    "layer_norm-plain": ("layer_norm", (X + 100,), {"eps": 1e-5}),
    "rope-halves": ("rope", (X, COS, SIN), {"layout": "halves"}),
    "rope-pairs": ("rope", (X, COS, SIN), {"layout": "pairs"}),
    "sum": ("sum", (X,), {"dims": (1, 2), "keepdim": False}),
    "sum-whole": ("sum", (WHOLE,), {"dims": (2,), "keepdim": True}),
    "sum-bools": ("sum", (BOOLS,), {"dims": (2,), "keepdim": False}),
    "mean": ("mean", (X,), {"dims": (1,), "keepdim": True}),
    **{f"{name}-{i}": (name, (x,), {"dims": (1, 2), "keepdim": bool(i)}) for name in ("amax", "amin")
       for i, x in enumerate((X, WHOLE, BOOLS))},
    "softmax": ("softmax", (X,), {"dim": 1}),
    "reshape": ("reshape", (X,), {"shape": (4, 9)}),
    "permute": ("permute", (X,), {"dims": (2, 1)}),
    "slice": ("slice", (X,), {"dim": 2, "start": 1, "stop": 10, "step": 4}),
    "concat": ("concat", (X, Y, Z), {"dim": 2}),
    "expand": ("expand", (X[:, :1],), {"shape": (4, 12)}),
}  # fmt: skip


def doubled(value):
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def test_table_has_every_op_of_the_dialect_and_every_op_has_a_case():
    assert set(DIALECT) - set(ops.FUSED) == LOWERED
    assert {case[0] for case in CASES.values()} == set(OPS)


@pytest.mark.parametrize("case", CASES)
def test_op_has_the_values_and_dtype_of_the_reference(case):
    name, operands, attributes = CASES[case]
    reference = DIALECT[name].reference
    given = [x.numpy() if isinstance(x, torch.Tensor) else x for x in operands]
    with semantics():
        given = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in given]
        if name in READ_AS_STORED:
            first = 2 if name == "expert_linear" else 1  # before the weights stand values
            given[first:] = [Matrix({"values": x}, x.shape) for x in given[first:]]
        found = np.asarray(OPS[name](*given, **attributes))
    plain = reference(*operands, **attributes)
    torch.set_default_dtype(torch.float64)
    try:
        expected = reference(*map(doubled, operands), **attributes).numpy()
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.shape, found.dtype.name) == (tuple(plain.shape), str(plain.dtype).removeprefix("torch."))
    if found.dtype == np.float32:
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
    else:
        assert np.array_equal(found, plain.numpy())
