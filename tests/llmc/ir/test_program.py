"""Programs built by hand: printing, saving, rewriting, blocks, verification."""

import json

import pytest
import torch

from llmc.errors import ArtifactError, VerificationError
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.pattern import ANY, SCALAR, WEIGHT
from llmc.ir.program import Program, type_of
from llmc.ir.rewrite import Rule
from llmc.ir.score import CAUSAL, SCORE
from llmc.ir.weights import Stored

WIDTH, HEADS, VOCAB = 12, 3, 17


def small_program(layers: int = 3, seed: int = 0) -> Program:
    """A causal model: embedding, layers of norm, attention and a gated product, a head."""
    torch.manual_seed(seed)
    editor = Editor()
    ids = editor.input("input_ids")
    names = [f"layers.{i}.{n}" for i in range(layers) for n in ("norm", "qkv", "out", "up", "down")]
    shapes = {"norm": (WIDTH,), "qkv": (3 * WIDTH, WIDTH), "out": (WIDTH, WIDTH), "up": (20, WIDTH), "down": (WIDTH, 20)}
    w = {n: editor.weight(Stored(torch.randn(shapes[n.split(".")[-1]]) / 4), n) for n in names}
    table = editor.weight(Stored(torch.randn(VOCAB, WIDTH)), "embed")
    x = editor.op(ops.embedding, ids, table)
    for i in range(layers):
        h = editor.op(ops.rms_norm, x, w[f"layers.{i}.norm"], eps=1e-5)
        qkv = editor.op(ops.linear, h, w[f"layers.{i}.qkv"])
        parts = [editor.op(ops.slice_, qkv, dim=1, start=a, stop=a + WIDTH) for a in (0, WIDTH, 2 * WIDTH)]
        q, k, v = (editor.op(ops.reshape, part, shape=(HEADS, WIDTH // HEADS)) for part in parts)
        a = editor.op(ops.attention, q, k, v, scale=0.5, score=SCORE, admits=CAUSAL)
        a = editor.op(ops.linear, editor.op(ops.reshape, a, shape=(WIDTH,)), w[f"layers.{i}.out"])
        x = editor.op(ops.add, x, a)
        up = editor.op(ops.silu, editor.op(ops.linear, x, w[f"layers.{i}.up"]))
        x = editor.op(ops.add, x, editor.op(ops.linear, up, w[f"layers.{i}.down"]))
    logits = editor.op(ops.linear, editor.op(ops.select_rows, x), table)
    editor.outputs = ("logits",)
    editor.graph.output((logits,))
    return editor.finish()


def run(program: Program) -> torch.Tensor:
    with torch.no_grad():
        return program.as_module()(torch.arange(9) % VOCAB)["logits"]


def test_program_prints_every_node_with_its_type_and_origin():
    text = str(small_program())
    assert text.count("attention(") == 3 and "block 2 of 3" in text and "f32[T, 3, 4]" in text


def test_blocks_are_found_and_carry_the_residual_stream_alone():
    blocks = small_program(layers=5).blocks
    assert blocks is not None and len(blocks.layers) == 5
    assert [type_of(node).fixed for node in blocks.carried.values()] == [(WIDTH,)]


def test_blocks_are_none_when_nothing_repeats():
    assert small_program(layers=1).blocks is None


def test_program_saved_and_loaded_computes_the_same_bits(tmp_path):
    program = small_program()
    program.save(tmp_path)
    again = Program.load(tmp_path)
    assert str(again) == str(program)
    assert torch.equal(run(again), run(program))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data.update(version=99),
        lambda data: data["nodes"][3].update(op="nonsense"),
        lambda data: data["nodes"][3]["operands"].append({"node": "ghost"}),
        lambda data: data["nodes"][1]["attributes"].update(eps="x" * 3, surplus=1),
        lambda data: data["weights"]["embed"].update(shape=[1, 1]),
        lambda data: data["weights"]["embed"].update(format={"kind": "dense", "dtype": "complex64"}),
        lambda data: data.pop("outputs"),
        lambda data: data["outputs"].update(logits="ghost"),
    ],
)
def test_damaged_program_is_refused_with_its_path(tmp_path, damage):
    small_program().save(tmp_path)
    data = json.loads((tmp_path / "program.json").read_text())
    damage(data)
    (tmp_path / "program.json").write_text(json.dumps(data))
    with pytest.raises(ArtifactError, match=r"program\.json"):
        Program.load(tmp_path)


def test_truncated_weights_are_refused(tmp_path):
    small_program().save(tmp_path)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        Program.load(tmp_path)


def test_rewrite_replaces_every_match_and_keeps_the_original():
    program = small_program()
    rule = Rule(
        ops.add(ANY.x, ops.linear(ANY.y, WEIGHT.w)),
        lambda editor, m: editor.op(ops.sub, m["x"], editor.op(ops.neg, editor.op(ops.linear, m["y"], m["w"]))),
    )
    changed = program.rewrite(rule)
    assert len(changed.find("sub")) == 6 and not changed.find("add") and len(program.find("add")) == 6
    assert torch.allclose(run(changed), run(program), atol=1e-6)


def test_rewrite_returns_the_program_itself_when_nothing_matches():
    program = small_program()
    assert program.rewrite(Rule(ops.mul(ANY.x, SCALAR.s), lambda editor, m: m["x"])) is program


def test_pattern_with_a_name_used_twice_needs_the_same_node():
    program = small_program()
    same = ops.add(ANY.x, ops.linear(ops.silu(ops.linear(ANY.x, WEIGHT.a)), WEIGHT.b))
    hits = []
    program.rewrite(Rule(same, lambda editor, m: m.root, check=lambda m: hits.append(m) or "only looking"))
    assert len(hits) == 3


def test_verifier_refuses_a_type_that_is_not_so():
    editor = small_program().edit()
    node = editor.nodes[2]
    node.meta["type"] = node.meta["type"].with_fixed((1,))
    with pytest.raises(VerificationError, match=node.name):
        editor.finish()


def test_verifier_refuses_reducing_over_tokens():
    editor = small_program().edit()
    with editor.after(editor.nodes[0]), pytest.raises(VerificationError, match="mixes tokens"):
        editor.op(ops.mean, editor.nodes[0], dims=(0,), keepdim=True)


def test_cost_counts_the_weights_of_a_linear_twice_a_token():
    program = small_program(layers=1)
    linears = 12 * 36 + 144 + 2 * 240 + VOCAB * WIDTH
    assert program.flops_per_token() > 2 * linears
    assert program.weight_bytes() == 4 * (12 + linears)
