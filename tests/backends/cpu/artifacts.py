"""A small model, and edits of the folder that it is saved in."""

import json
from pathlib import Path

from llmc.ir import ops
from llmc.ir.score import CAUSAL, SCORE
from llmc.runtime.manifest import Manifest, describe
from llmc.runtime.tokenizer import Tokenizer
from tests.backends.cpu.programs import table, weight

ROOT = Path(__file__).parents[3]
TOKENIZER = Tokenizer(ROOT / "examples" / "tiny_lm" / "model")
VOCAB = TOKENIZER.vocab_size
IDS = [(7 * i) % VOCAB for i in range(40)]


def generating(editor, ids):
    """Attention over embeddings of ids and positions, and logits of the rows asked for."""
    x = table(editor, ids, size=8, rows=VOCAB)
    x = editor.op(ops.add, x, table(editor, editor.input("position"), "places", rows=90))
    heads = editor.op(ops.reshape, x, shape=(2, 4))
    mixed = editor.op(ops.attention, heads, heads, heads, scale=0.5, score=SCORE, admits=CAUSAL)
    rows = editor.op(ops.select_rows, editor.op(ops.reshape, mixed, shape=(8,)))
    return editor.op(ops.linear, editor.op(ops.silu, rows), weight(editor, "head", VOCAB, 8))


def change(folder, name, edit, listed=True):
    """Edit a file of the artifact as a text, and what the manifest says of it."""
    path = folder / name
    path.write_text(edit(path.read_text()))
    if listed:
        list_as_it_is(folder, name)


def list_as_it_is(folder, name):
    """Have the manifest describe a file that was changed."""
    manifest = Manifest.read(folder)
    manifest.files[name] = describe(folder / name)
    manifest.write(folder)


def change_facts(folder, **fields):
    change(folder, "executable/executable.json", lambda text: json.dumps({**json.loads(text), **fields}))


def logits(model):
    return model([IDS])[0]
