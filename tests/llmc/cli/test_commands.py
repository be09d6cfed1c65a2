"""Every command on the bundled model, as a user would call it."""

import json
import os
import re
import subprocess
import sys

import pytest

import llmc
from llmc.cli.common import parse_pass
from llmc.cli.main import app
from llmc.errors import InputError
from llmc.ir import ops
from llmc.pipeline.base import Pass
from llmc.plugins.registry import Entry, default
from tests.llmc.cli.conftest import MODEL

PROMPT = "def add(a, b):\n    return"


def test_generate_writes_the_text_of_the_library_call(run, artifact):
    code, out, err = run("generate", artifact, PROMPT, "--max-new-tokens", 12)
    assert code == 0 and "12 new tokens" in err
    assert out == f"{llmc.load(artifact).generate(PROMPT, max_new_tokens=12).text}\n"


def test_generate_reads_the_prompt_from_stdin(run, artifact):
    assert (
        run("generate", artifact, "-", "--max-new-tokens", 5, stdin=PROMPT)[1]
        == (run("generate", artifact, PROMPT, "--max-new-tokens", 5)[1])
    )


def test_generate_with_a_seed_repeats_itself_and_another_differs(run, artifact):
    texts = [
        run("generate", artifact, PROMPT, "--temperature", 1, "--top-k", 50, "--seed", seed, "--max-new-tokens", 20)[1]
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_generate_with_prompt_lookup_writes_the_same_and_tells_of_its_guesses(run, artifact):
    prompt = "x = 1\n" * 12
    _, plain, err = run("generate", artifact, prompt, "--max-new-tokens", 60)
    assert "guesses" not in err
    code, out, err = run("generate", artifact, prompt, "--max-new-tokens", 60, "--prompt-lookup", 8)
    assert code == 0 and out == plain and re.search(r"a second, \d+ of \d+ guesses right, ended by", err)
    data = json.loads(run("generate", artifact, prompt, "--prompt-lookup", 8, "--json")[1])
    assert 0 <= data["accepted_tokens"] <= data["drafted_tokens"] > 0


def test_generate_compiles_a_model_on_the_fly(run):
    code, out, err = run("generate", MODEL, PROMPT, "--max-new-tokens", 3, "--backend", "eager")
    assert code == 0 and out.strip() and "lowering to backend eager" in err and "Loading weights" not in err


def test_generate_and_compile_print_one_json_object(run, artifact, tmp_path):
    code, out, _ = run("generate", artifact, PROMPT, "--max-new-tokens", 5, "--json")
    data = json.loads(out)
    assert code == 0 and data["new_tokens"] == len(data["tokens"]) == 5 and data["finish_reason"] == "length"
    assert data["text"] == run("generate", artifact, PROMPT, "--max-new-tokens", 5)[1][:-1]
    code, out, _ = run("compile", MODEL, "-o", tmp_path / "m", "--backend", "eager", "--json")
    data = json.loads(out)
    assert code == 0 and data["folder"] == str(tmp_path / "m") and data["backend"] == "eager"
    assert data["passes"][0]["key"] == "canonicalize"


def test_inspect_summarizes(run, artifact):
    code, out, _ = run("inspect", artifact)
    assert code == 0 and "max context" in out and "512" in out
    data = json.loads(run("inspect", artifact, "--json")[1])
    assert data["attentions"] == 4 and data["recipe"] == "int8" and data["sources"][0] == "model.cpp"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--graph", "# block 2 of 3"),
        ("--axes", "cache in all: 4096 bytes a token"),
        ("--source", "void forward(const Model& model"),
        ("--explain", "quantize"),
    ],
)
def test_inspect_shows_what_was_asked_for(run, artifact, option, expected):
    code, out, _ = run("inspect", artifact, option)
    assert code == 0 and expected in out
    data = json.loads(run("inspect", artifact, option, "--json")[1])
    assert list(data) == [{"--explain": "passes"}.get(option, option.strip("-"))]


def test_inspect_shows_the_program_after_a_pass(run):
    options = ("--backend", "eager", "--graph", "--after")
    captured, merged = (run("inspect", MODEL, *options, name)[1] for name in ("capture", "fuse-qkv"))
    assert "rope(" not in captured and captured.count(" = linear(") == 29
    assert "rope(" in merged and merged.count(" = linear(") == 21


def test_inspect_shows_other_files_of_the_code(run, artifact):
    out = run("inspect", artifact, "--file", "linear.h")[1]
    assert "linear" in out and out.rstrip().endswith("// namespace llmc")


def test_eval_prints_perplexity_and_distance(run, artifact):
    options = ("--text", MODEL / "heldout.txt", "--limit", 600, "--window", 256)
    alone = json.loads(run("eval", artifact, *options, "--json")[1])
    both = json.loads(run("eval", artifact, *options, "--against", MODEL, "--json")[1])
    assert both["compiled"]["perplexity"] == alone["perplexity"]
    assert both["positions"] == 600 and alone["tokens"] == 597
    assert 0 < both["kl_nats"] < 0.01 and both["same_top1"] > 0.95
    code, out, _ = run("eval", artifact, *options)
    assert code == 0 and "bits a byte" in out


def test_passes_backends_and_plugins_list_what_is_built_in(run):
    passes = json.loads(run("passes", "--json")[1])
    assert {"canonicalize", "fuse-qkv", "quantize"} <= {entry["name"] for entry in passes["passes"]}
    backends = {entry["name"]: entry for entry in json.loads(run("backends", "--json")[1])["backends"]}
    assert backends["eager"]["available"] and backends["cpu"]["available"] and "int8" in backends["cpu"]["formats"]
    plugins = json.loads(run("plugins", "--json")[1])["plugins"]
    assert {"builtin-passes", "builtin-backends"} <= {plugin["name"] for plugin in plugins}
    assert all(run(name)[0] == 0 for name in ("passes", "backends", "plugins"))


def test_recipes_are_listed_with_their_passes_and_one_is_shown_with_all_options(run):
    listed = {entry["name"]: entry for entry in json.loads(run("recipes", "--json")[1])["recipes"]}
    assert {"none", "fuse", "bf16", "int8", "int4"} <= set(listed) and all(entry["summary"] for entry in listed.values())
    one = json.loads(run("recipes", "int8", "--json")[1])
    assert one == listed["int8"] and one["distribution"] == "llmc"
    [quantize] = [step for step in one["passes"] if step["pass"] == "quantize"]
    assert quantize["options"]["bits"] == 8 and "bits" in quantize["set"] and "skip" in quantize["options"]
    assert "*bits=8" in run("recipes", "int8")[1] and "quantize(bits=8" in run("recipes")[1]


def test_recipe_file_is_shown_as_others_are(run, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("description: Mine.\nextends: fuse\npasses:\n- quantize: {bits: 8}\n")
    shown = json.loads(run("recipes", path, "--json")[1])
    assert shown["summary"] == "Mine." and [step["pass"] for step in shown["passes"]][-1] == "quantize"
    code, out, _ = run("recipes", path)
    assert code == 0 and f"{path}: Mine." in out and "*bits=8" in out


def test_recipe_whose_pass_is_not_there_does_not_hide_the_others(run, monkeypatch):
    entry = Entry("lost", ["no-such-pass"], "tests", "0")
    monkeypatch.setitem(default()._entries["recipes"], "lost", entry)
    listed = {entry["name"]: entry for entry in json.loads(run("recipes", "--json")[1])["recipes"]}
    assert "no-such-pass" in listed["lost"]["summary"] and listed["int8"]["passes"]


def test_backends_tell_what_they_run_on_and_make_code_for(run):
    backends = {entry["name"]: entry for entry in json.loads(run("backends", "--json")[1])["backends"]}
    assert backends["eager"]["runs_on"].startswith("torch 2") and backends["eager"]["targets"] == ["torch on CPU"]
    assert backends["cpu"]["runs_on"] and {"portable", "neon"} <= set(backends["cpu"]["targets"])


def test_backend_that_cannot_be_made_does_not_hide_the_others(run, monkeypatch):
    class Broken:
        def __init__(self):
            raise RuntimeError("out of order")

    monkeypatch.setitem(default()._entries["backends"], "broken", Entry("broken", Broken, "tests", "0"))
    backends = {entry["name"]: entry for entry in json.loads(run("backends", "--json")[1])["backends"]}
    assert backends["eager"]["available"] and "out of order" in backends["broken"]["reason"]
    code, _, err = run("inspect", MODEL, "--backend", "broken")
    assert code == 2 and "out of order" in err and "Traceback" not in err


def test_backend_whose_compiler_is_missing_is_listed_with_the_reason(run, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    backends = {entry["name"]: entry for entry in json.loads(run("backends", "--json")[1])["backends"]}
    assert not backends["cpu"]["available"] and "no-such-compiler" in backends["cpu"]["reason"]


class Spoil(Pass):
    """Halve the logits."""

    name = "spoil-for-the-test"

    def run(self, program, ctx):
        editor = program.edit(self.name)
        [logits] = editor.results
        with editor.after(logits):
            half = editor.op(ops.mul, logits, 0.5)
        editor.graph.output_node().args = ((half,),)
        ctx.matched(logits.meta["origin"])
        return editor.finish()


@pytest.fixture
def spoil(monkeypatch):
    registry = default()
    monkeypatch.setitem(registry._entries["passes"], Spoil.name, Entry(Spoil.name, Spoil, "tests", "0"))


def test_bisect_finds_the_guilty_pass(run, spoil):
    code, out, _ = run("bisect", MODEL, "--pass", Spoil.name)
    assert code == 1 and f"pass '{Spoil.name}' changes the outputs" in out
    code, out, _ = run("bisect", MODEL, "--pass", Spoil.name, "--json")
    assert code == 1 and json.loads(out)["guilty"] == Spoil.name


def test_bisect_is_content_with_what_is_right(run):
    code, out, _ = run("bisect", MODEL, "--recipe", "fuse")
    assert code == 0 and "no pass is to blame" in out


def test_compile_dumps_the_program_after_every_pass(run, tmp_path):
    code, _, err = run("compile", MODEL, "-o", tmp_path / "m", "--backend", "eager", "--dump-dir", tmp_path / "dump",
                       "--pass", 'quantize:skip=["lm_head*"]')  # fmt: skip
    assert code == 0, err
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert names[:2] == ["00-captured.txt", "01-canonicalize.txt"] and "08-quantize.txt" in names
    assert "lm_head.weight:bf16" in (tmp_path / "dump" / "08-quantize.txt").read_text()


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("quantize", {"name": "quantize"}),
        ("quantize:bits=8", {"name": "quantize", "bits": 8}),
        ('q:skip=["a", "b"],mode=fast, n = 1.5', {"name": "q", "skip": ["a", "b"], "mode": "fast", "n": 1.5}),
        ("q:name_of=x,y", {"name": "q", "name_of": "x,y"}),
    ],
)
def test_pass_options_are_read(text, spec):
    assert parse_pass(text) == spec


@pytest.mark.parametrize("text", ["", ":a=1", "q:", "q:a", "q:a=1,a=2", "q:1a=2", "q:name=x"])
def test_pass_options_of_another_form_are_refused(text):
    with pytest.raises(InputError, match="--pass"):
        parse_pass(text)


@pytest.mark.parametrize("name", [command.name for command in app.registered_commands])
def test_every_command_has_help_and_prints_json_if_asked(run, name):
    code, out, _ = run(name, "--help")
    assert code == 0 and "--json" in out and "[default: none]" not in out


def test_installed_command_prints_its_version_and_help_without_loading_torch():
    code = "import sys; from llmc.cli.main import app; app(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False") and "bisect" in done.stdout
    command = os.path.join(os.path.dirname(sys.executable), "llmc")
    assert subprocess.check_output([command, "--version"], text=True) == f"llmc {llmc.__version__}\n"
