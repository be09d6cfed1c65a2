"""What is given may be damaged, absurd or malicious: an error line that names it, exit code 2, nothing half-written."""

from __future__ import annotations

import itertools
import os
import re
import resource
import shlex
import string
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmc.backends.cpu.store import SEAL
from llmc.cli.main import app
from llmc.plugins.registry import default
from tests.e2e.hostile import (
    CHECKPOINT,
    EMBEDDING,
    MODEL,
    NORM,
    Case,
    artifact,
    both,
    config,
    copy,
    data_of,
    deep,
    doubled,
    executable,
    file,
    flipped,
    folder_at,
    generation_config,
    halved,
    header,
    info,
    link,
    listed,
    manifest,
    model,
    plugin,
    rehashed,
    script,
    sharded,
    tokenizer_config,
    with_header,
    without,
)

OFFSETS = "data_offsets"

CHECKPOINTS = {
    "checkpoint cut in half": model(halved(CHECKPOINT), r"model\.safetensors"),
    "empty checkpoint": model(file(CHECKPOINT, b""), r"model\.safetensors"),
    "header longer than any file": model(data_of(CHECKPOINT, lambda d: b"\xff" * 7 + b"\x7f" + d[8:]), r"model\.safetensors"),
    "header longer than the file": model(data_of(CHECKPOINT, lambda d: b"\0\0\0\x05\0\0\0\0" + d[8:]), r"model\.safetensors"),
    "header that is no JSON": model(data_of(CHECKPOINT, lambda d: with_header(b"{'a': 1}", d)), r"model\.safetensors"),
    "header nested deeply": model(
        data_of(CHECKPOINT, lambda d: with_header(deep('{"a":', "}").encode(), d)), r"model\.safetensors"
    ),
    "offsets beyond the file": model(
        header(lambda h: h[EMBEDDING].update({OFFSETS: [0, 1 << 40], "shape": [1 << 39]})), r"model\.safetensors"
    ),
    "offsets backwards": model(header(lambda h: h[NORM].update({OFFSETS: h[NORM][OFFSETS][::-1]})), r"model\.safetensors"),
    "tensors that overlap": model(header(lambda h: h[NORM].update({OFFSETS: [0, 384]})), r"model\.safetensors"),
    "data of no tensor": model(data_of(CHECKPOINT, lambda d: d + b"\0" * 64), r"model\.safetensors"),
    "dtype of another size": model(header(lambda h: h[NORM].update(dtype="F32")), r"model\.safetensors"),
    "dtype that is not a float": model(header(lambda h: h[NORM].update(dtype="I16")), r"model\.norm\.weight.*I16"),
    "unknown dtype": model(header(lambda h: h[NORM].update(dtype="Q4_K")), r"model\.safetensors"),
    "name twice": model(data_of(CHECKPOINT, doubled), r"model\.safetensors.*model\.norm\.weight"),
    "huge shape": model(header(lambda h: h[NORM].update(shape=[1 << 40, 1 << 40])), r"model\.safetensors"),
    "negative shape": model(header(lambda h: h[NORM].update(shape=[-192])), r"model\.safetensors"),
    "shape that is not the model's": model(
        header(lambda h: h[NORM].update(shape=[h[NORM]["shape"][0] // 2, 2])), r"model\.norm\.weight.*\[\d+, 2\]"
    ),
    "tensor under another name": model(header(lambda h: h.update(x=h.pop(NORM))), r"model\.norm\.weight"),
    "weights that are no number": model(
        data_of(CHECKPOINT, lambda d: d[:-4] + b"\xff\x7f\xff\x7f"), "NaN", "generate {m} def --backend eager"
    ),
    "pickled checkpoint only": model(both(without(CHECKPOINT), file("m/pytorch_model.bin", b"\x80\x04.")), "safetensors"),
    "folder in place of the checkpoint": model(folder_at(CHECKPOINT), r"model\.safetensors"),
    "shard that is missing": model(sharded({NORM: "model-00002-of-00002.safetensors"}), "model-00002-of-00002"),
    "shard outside of the folder": model(sharded({NORM: "../../secret.safetensors"}), r"secret\.safetensors"),
    "shard at an absolute path": model(sharded({NORM: "/etc/passwd"}), "/etc/passwd"),
    "index that is no JSON": model(sharded("{"), r"index\.json"),
    "index without a map": model(sharded("[]"), r"index\.json"),
}

CONFIGS = {
    "no heads": model(config(num_attention_heads=0), "num_attention_heads"),
    "heads that do not divide": model(config(num_key_value_heads=5), r"k_proj\.weight.*config\.json"),
    "negative width": model(config(hidden_size=-192), "hidden_size"),
    "width as a text": model(config(hidden_size="wide"), "hidden_size|m: "),
    "huge vocabulary": model(config(vocab_size=1 << 45), "vocab_size"),
    "huge number of layers": model(config(num_hidden_layers=1_000_000_000), "num_hidden_layers"),
    "no layers": model(config(num_hidden_layers=0), "num_hidden_layers"),
    "no width of a head": model(config(head_dim=0), "head_dim"),
    "no positions": model(config(max_position_embeddings=0), "max_position_embeddings"),
    "epsilon that is no number": model(config(rms_norm_eps=float("nan")), "rms_norm_eps"),
    "activation that there is not": model(config(hidden_act="os.system"), r"os\.system"),
    "no model type": model(config(model_type=None, architectures=None), "model_type"),
    "unknown model type": model(config(model_type="transmogrifier"), "transmogrifier"),
    "code of its own": model(
        config(model_type="transmogrifier", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}),
        "transmogrifier|code",
    ),
    "encoder and decoder": model(config(model_type="t5", architectures=["T5ForConditionalGeneration"]), "m: "),
    "rope of no kind": model(config(rope_parameters={"rope_type": "spiral", "rope_theta": 10000.0}), "spiral"),
    "config that is a list": model(file("m/config.json", "[]"), r"config\.json"),
    "config that is no JSON": model(file("m/config.json", "{"), r"config\.json"),
    "config that is no text": model(file("m/config.json", b"\xff\xfe{}"), r"config\.json"),
    "config nested deeply": model(file("m/config.json", deep('{"a":', "}")), r"config\.json"),
    "no config": model(without("m/config.json"), r"config\.json"),
    "end of text that is no id": model(generation_config(eos_token_id="end"), "eos_token_id"),
}

END = b'"<|endoftext|>"'
KIND = "sentence_transformers.models"
SENTENCES = {
    "modules of a sentence encoder that are garbage": model(file("m/modules.json", "{"), r"modules\.json"),
    "module that there is not": model(
        file("m/modules.json", '[{"type": "os.system", "path": ""}]'), r"modules\.json.*os\.system"
    ),
    "module above the folder": model(
        file("m/modules.json", f'[{{"type": "{KIND}.Transformer", "path": "../../secret"}}]'),
        r"modules\.json.*\.\./\.\./secret",
    ),
    "modules without pooling": model(
        file("m/modules.json", f'[{{"type": "{KIND}.Transformer", "path": ""}}]'), r"modules\.json"
    ),
    "text that no encoder is given": artifact(lambda folder: None, "no output.*logits", "encode {a} def"),
}

TOKENIZERS = {
    "tokenizer that is garbage": model(file("m/tokenizer.json", b"\0\1\2garbage"), r"tokenizer\.json"),
    "tokenizer cut in half": model(halved("m/tokenizer.json"), r"tokenizer\.json"),
    "tokenizer nested deeply": model(file("m/tokenizer.json", deep("[", "]")), r"tokenizer\.json"),
    "config of the tokenizer that is garbage": model(file("m/tokenizer_config.json", "{"), r"tokenizer_config\.json"),
    "chat template that is no text": model(file("m/chat_template.jinja", b"\xff\xfe"), r"chat_template\.jinja"),
    "chat template that breaks out": model(
        tokenizer_config(chat_template="{{ ''.__class__.__mro__ }}"), "chat template", "chat {m} --backend eager", b"hello\n"
    ),
    "tokenizer of another model": model(
        data_of("m/tokenizer.json", lambda d: d.replace(END + b": 0", END + b": 4999").replace(b'"id": 0,', b'"id": 4999,')),
        "token id 4999",
        "generate {m} '<|endoftext|>' --backend eager",
    ),
}

LETTERS = string.ascii_lowercase
BOMB = "".join(["a: &a [x, x]\n", *(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in itertools.pairwise(LETTERS)), "passes: *z\n"])
YAML = "compile {model} -o {folder}/out --backend eager --recipe {folder}/r.yaml"
RECIPES = {
    "unknown recipe": Case("compile {model} -o {folder}/out --recipe int9", "'int9'.*'int8'"),
    "recipe file that is not there": Case(YAML, r"r\.yaml"),
    "recipe that is no YAML": Case(YAML, r"r\.yaml", file("r.yaml", "passes: [a, {")),
    "recipe nested deeply": Case(YAML, r"r\.yaml", file("r.yaml", "passes: " + deep("[", "]", 20_000))),
    "recipe that makes an object": Case(YAML, r"r\.yaml", file("r.yaml", "passes: !!python/object/apply:os.system ['true']")),
    "recipe that blows itself up": Case(YAML, r"r\.yaml", file("r.yaml", BOMB)),
    "recipe with an unknown key": Case(YAML, r"r\.yaml.*'pases'", file("r.yaml", "pases: [canonicalize]")),
    "recipe with an unknown pass": Case(YAML, "'fuse-qvk'", file("r.yaml", "passes: [fuse-qvk]")),
    "recipe with an unknown option": Case(YAML, "'bit'", file("r.yaml", "passes:\n- {name: quantize, bit: 8}")),
    "recipe with a key twice": Case(YAML, r"r\.yaml.*passes", file("r.yaml", "passes: [canonicalize]\npasses: []")),
    "recipe that names a pass by a number": Case(YAML, r"r\.yaml.*passes\.0", file("r.yaml", "passes: [8]")),
    "recipe shown that is no YAML": Case("recipes {folder}/r.yaml", r"r\.yaml", file("r.yaml", "passes: [a, {")),
    "recipe that is a text": Case(YAML, r"r\.yaml", file("r.yaml", "int8")),
    "recipe that is no text": Case(YAML, r"r\.yaml", file("r.yaml", b"\xff\xfe\0")),
    "recipe that is a folder": Case(YAML, r"r\.yaml", folder_at("r.yaml")),
    "unknown pass": Case("compile {model} -o {folder}/out --pass fuse-qvk", "'fuse-qvk'.*'fuse-qkv'"),
    "unknown option of a pass": Case("compile {model} -o {folder}/out --pass quantize:bit=8", "'bit'"),
    "option of another type": Case("compile {model} -o {folder}/out --pass quantize:bits=many", "bits"),
    "malformed option": Case("compile {model} -o {folder}/out --pass quantize:bits", "NAME:key=value"),
    "unknown backend": Case("compile {model} -o {folder}/out --backend gpu", "'gpu'.*'cpu'|'gpu'.*known"),
    "unknown target": Case("compile {model} -o {folder}/out --target avx1024", "avx1024"),
    "unknown option": Case("compile {model} -o {folder}/out --frobnicate", "--frobnicate"),
    "no context": Case("compile {model} -o {folder}/out --max-context 0", "max-context"),
    "context beyond the model's": Case("compile {model} -o {folder}/out --backend eager --max-context 513", "513.*512"),
}

OUT = "compile {model} -o {folder}/out --backend eager"
OUTPUTS = {
    "output that is a file": Case(OUT, "out: .*not replaced", file("out", "thesis")),
    "output with other files": Case(OUT, "out: .*not replaced", file("out/thesis.txt", "years of work")),
    "output below a file": Case("compile {model} -o {folder}/thesis/out --backend eager", "thesis", file("thesis", "years")),
    "output that is the model": Case("compile {m} -o {m} --backend eager", "m: .*not replaced", copies="m"),
    "output where nobody may write": Case("compile {model} -o /proc/llmc/out --backend eager", "/proc/llmc"),
    "output with a name that is too long": Case(f"compile {{model}} -o {{folder}}/{'x' * 300} --backend eager", "xxx.*name"),
    "dump into a file": Case(OUT + " --dump-dir {folder}/dump", "dump", file("dump", "")),
}

CPU = "compile {model} -o {folder}/out"
MACHINES = {
    "no compiler": Case(CPU, "no-such-compiler.*install", environment={"CXX": "no-such-compiler"}),
    "compiler that is no command": Case(CPU, "CXX", environment={"CXX": "'"}),
    "compiler that is no program": Case(CPU, "cxx", file("cxx", "garbage"), environment={"CXX": "{folder}/cxx"}),
    "compiler that fails": Case(CPU, "status 3", script("echo no coffee >&2; exit 3"), environment={"CXX": "{folder}/cxx"}),
    "compiler that is killed": Case(CPU, "was killed by SIGKILL", script("kill -9 $$"), environment={"CXX": "{folder}/cxx"}),
    "compiler that writes nothing": Case(CPU, "did not write", script("exit 0"), environment={"CXX": "{folder}/cxx"}),
    "compiler that writes garbage": Case(
        CPU,
        "did not write",
        script('while [ "$1" != -o ]; do shift; done; echo garbage > "$2"'),
        environment={"CXX": "{folder}/cxx"},
    ),
    "cache that is a file": Case(CPU, "cache", file("cache", "x")),
    "cache where nobody may write": Case(CPU, "/proc/llmc.*LLMC_CACHE", environment={"LLMC_CACHE": "/proc/llmc"}),
    "cache that is full": Case(CPU, "cache.*File too large.*LLMC_CACHE", outside=True),
    "more threads than can be": Case("generate {a} def --threads 100000", "threads.*1024", copies="a"),
    "no threads": Case("generate {a} def --threads 0", "--threads", copies="a"),
}

EVIL = "import sys\nraise RuntimeError('evil at import')\n"
TAKEN = "@hookimpl\ndef llmc_passes(register):\n    register('quantize', 'evil_plugin:Quantize')\n"
MISSING = "@hookimpl\ndef llmc_passes(register):\n    register('vanish', 'evil_plugin:Vanish')\n"
OTHER = "@hookimpl\ndef llmc_backends(register):\n    register('npu', 'evil_plugin:Npu')\nclass Npu:\n    pass\n"
LOST = "@hookimpl\ndef llmc_recipes(register):\n    register('lost', ['no-such-pass'])\n"
PLUGINS = {
    "plugin that raises at import": Case(
        OUT + " --pass evil-pass", "evil-pass.*evil-entry.*evil at import", plugin(EVIL), outside=True
    ),
    "plugin with a name that is taken": Case("passes", "'quantize'.*llmc.*evil.*DISABLE", plugin(TAKEN), outside=True),
    "pass that cannot be imported": Case(OUT + " --pass vanish", "'vanish' of evil", plugin(MISSING), outside=True),
    "backend that is none": Case("compile {model} -o {folder}/out --backend npu", "'npu' of evil", plugin(OTHER), outside=True),
    "recipe with a pass that is not there": Case(OUT + " --recipe lost", "no-such-pass", plugin(LOST), outside=True),
}

INPUTS = {
    "prompt beyond the context": Case("generate {a} -", "512", copies="a", stdin=b"x = 1\n" * 400),
    "empty prompt": Case("generate {a} ''", "empty", copies="a"),
    "prompt that is no UTF-8": Case("generate {a} -", "UTF-8", copies="a", stdin=b"\xff\xfe\xff", outside=True),
    "chat that is no UTF-8": Case("chat {a}", "UTF-8", copies="a", stdin=b"\xff\xfe\xff\n", outside=True),
    "argument that is no UTF-8": Case("generate {a} \udcff", "UTF-8|unicode", copies="a", outside=True),
    "conversation beyond the context": Case("chat {a}", "512", copies="a", stdin=b"x = 1 " * 400 + b"\n"),
    "negative number of tokens": Case("generate {a} def --max-new-tokens -5", "max_new_tokens.*-5", copies="a"),
    "temperature that is no number": Case("generate {a} def --temperature nan", "temperature.*nan", copies="a"),
    "infinite temperature": Case("generate {a} def --temperature inf", "temperature.*inf", copies="a"),
    "top-p above one": Case("generate {a} def --top-p 1.5", "top_p.*1.5", copies="a"),
    "negative top-k": Case("generate {a} def --top-k -1", "top_k.*-1", copies="a"),
    "negative seed": Case("generate {a} def --seed -1", "seed.*-1", copies="a"),
    "empty stop": Case("generate {a} def --stop ''", "stop", copies="a"),
    "text that is not there": Case("eval {a} --text {folder}/t", "/t: ", copies="a"),
    "text that is a folder": Case("eval {a} --text {folder}/t", "/t: ", folder_at("t"), copies="a"),
    "text that is no UTF-8": Case("eval {a} --text {folder}/t", "UTF-8", file("t", b"\xff\xfe"), copies="a"),
    "text that is empty": Case("eval {a} --text {folder}/t", "0 tokens", file("t", ""), copies="a"),
    "window of nothing": Case("eval {a} --text {folder}/t --window 0", "window", file("t", "a b c"), copies="a"),
    "model that is not there": Case("generate ./nowhere def", r"\./nowhere"),
    "file in place of a model": Case("generate {folder}/f def", "/f: ", file("f", "x")),
    "original that is not there": Case("eval {a} --text {folder}/t --against ./no", r"\./no", file("t", "a b c"), copies="a"),
    "source that there is not": Case("inspect {a} --file ../../etc/passwd", r"etc/passwd", copies="a"),
}

MANIFEST = r"manifest\.json"
PROGRAM, PACKED, LIBRARY = "program/weights.safetensors", "executable/weights.bin", "executable/model.so"


def target(**changes):
    """What the code is said to run on, changed."""
    return manifest(lambda data: data["target"].update(changes))


ARTIFACTS = {
    "manifest that is empty": artifact(file("a/manifest.json", ""), MANIFEST),
    "manifest nested deeply": artifact(file("a/manifest.json", deep("[", "]")), MANIFEST),
    "manifest of another format": artifact(manifest(lambda d: d.update(format="gguf")), MANIFEST),
    "manifest of another version": artifact(manifest(lambda d: d.update(version=99)), f"{MANIFEST}.*99"),
    "manifest without info": artifact(manifest(lambda d: d.pop("info")), f"{MANIFEST}.*info"),
    "manifest without files": artifact(manifest(lambda d: d.pop("files")), f"{MANIFEST}.*files"),
    "manifest without records": artifact(manifest(lambda d: d.pop("records")), f"{MANIFEST}.*records"),
    "manifest with a list of files": artifact(manifest(lambda d: d.update(files=[])), f"{MANIFEST}.*files"),
    "manifest that lists nothing": artifact(manifest(lambda d: d.update(files={})), f"{MANIFEST}.*listed"),
    "record that is none": artifact(manifest(lambda d: d.update(records=[{"key": 1}])), f"{MANIFEST}.*record"),
    "vocabulary that is a text": artifact(info(vocab_size="many"), f"{MANIFEST}.*vocab_size"),
    "vocabulary of nothing": artifact(info(vocab_size=0), f"{MANIFEST}.*vocab_size"),
    "vocabulary beyond the table": artifact(info(vocab_size=1 << 40), f"{MANIFEST}.*vocab_size"),
    "context of nothing": artifact(info(max_context=-1), f"{MANIFEST}.*max_context"),
    "context that no machine holds": artifact(info(max_context=1 << 60), f"{MANIFEST}.*max_context"),
    "end of text that is a text": artifact(info(eos_ids=["a"]), f"{MANIFEST}.*eos_ids"),
    "backend that there is not": artifact(info(backend="gpu"), "'gpu'"),
    "threads that cannot be": artifact(info(threads=-4), f"{MANIFEST}.*threads"),
    "fact that there is not": artifact(info(colour="red"), f"{MANIFEST}.*colour"),
    "file above the folder": artifact(listed("../secret"), f"{MANIFEST}.*\\.\\./secret"),
    "file at an absolute path": artifact(listed("/etc/passwd"), f"{MANIFEST}.*/etc/passwd"),
    "file of Windows": artifact(listed("..\\secret"), MANIFEST),
    "file that is not there": artifact(listed("extra.bin"), r"extra\.bin"),
    "link in place of the program": artifact(link("program/program.json"), "program.json.*link"),
    "link in place of the tokenizer": artifact(link("tokenizer/tokenizer.json"), "tokenizer.json.*link"),
    "program that was changed": artifact(flipped("a/program/program.json"), r"program\.json.*changed"),
    "program that is missing": artifact(without("a/program/program.json"), r"program\.json"),
    "weights of the program that were changed": artifact(flipped(f"a/{PROGRAM}"), f"{PROGRAM}.*changed", "inspect {a} --graph"),
    "weights of the program that were cut off": artifact(halved(f"a/{PROGRAM}"), f"{PROGRAM}.*size"),
    "tokenizer that was changed": artifact(flipped("a/tokenizer/tokenizer.json"), r"tokenizer\.json.*changed"),
    "packed weights that were changed": artifact(flipped(f"a/{PACKED}"), f"{PACKED}.*changed"),
    "packed weights that were cut off": artifact(halved(f"a/{PACKED}"), f"{PACKED}.*size"),
    "packed weights that are too few": artifact(rehashed(halved(f"a/{PACKED}"), name=PACKED), f"{PACKED}|executable"),
    "packed weights that are missing": artifact(without(f"a/{PACKED}"), f"{PACKED}.*no such file"),
    "library that was changed": artifact(flipped(f"a/{LIBRARY}"), f"{LIBRARY}.*changed.*llmc rebuild"),
    "library that was cut off": artifact(halved(f"a/{LIBRARY}"), f"{LIBRARY}.*size"),
    "library that is none": artifact(rehashed(file(f"a/{LIBRARY}", "garbage"), name=LIBRARY), f"{LIBRARY}.*cannot load"),
    "library that is missing": artifact(without(f"a/{LIBRARY}"), f"{LIBRARY}.*no such file"),
    "library of another processor": artifact(target(machine="pdp11"), "pdp11.*llmc rebuild"),
    "library of another instruction set": artifact(target(needs=["quantum"]), "quantum.*llmc rebuild"),
    "target that is none": artifact(manifest(lambda d: d.update(target="avx512")), f"{MANIFEST}.*target"),
    "interface of another version": artifact(executable(abi=99), "99"),
    "blocks of another size": artifact(executable(block=7), "7"),
    "outputs that the library does not give": artifact(executable(outputs={}), "executable"),
    "sources above the folder": artifact(executable(sources=["../../secret"]), r"executable\.json.*secret"),
    "fact of the library that there is not": artifact(executable(colour="red"), r"executable\.json.*colour"),
    "recipe for an artifact": artifact(lambda folder: None, "--recipe", "generate {a} def --recipe int8"),
    "target for an artifact": artifact(lambda folder: None, "--target", "generate {a} def --target portable"),
    "rebuilt model that is not compiled": model(lambda folder: None, "m: .*not compiled", "rebuild {m}"),
    "rebuilt model that is not there": Case("rebuild ./nowhere", "nowhere: "),
    "rebuilt for a target that there is not": artifact(lambda folder: None, "avx1024", "rebuild {a} --target avx1024"),
    "rebuilt from sources that are wrong": artifact(
        data_of("a/executable/model.cpp", lambda d: d + b"\n#error out of coffee\n"), "status 1", "rebuild {a}"
    ),
    "rebuilt without its sources": artifact(without("a/executable/model.cpp"), r"model\.cpp", "rebuild {a}"),
    "rebuilt with a manifest that is garbage": artifact(file("a/manifest.json", "garbage"), MANIFEST, "rebuild {a}"),
    "verified with a text that has no tokens": artifact(lambda folder: None, "empty|text", "verify {a} --text ''"),
    "verified with weights that were changed": artifact(flipped(f"a/{PROGRAM}"), f"{PROGRAM}.*changed", "verify {a}"),
    "measured beyond the context": artifact(
        lambda folder: None, "600 together", "bench {a} --prompt-tokens 598 --new-tokens 2"
    ),
    "artifact compiled again": artifact(lambda folder: None, "compiled already", "compile {a} -o {folder}/out"),
}

CASES = {
    **CHECKPOINTS,
    **CONFIGS,
    **SENTENCES,
    **TOKENIZERS,
    **RECIPES,
    **OUTPUTS,
    **MACHINES,
    **PLUGINS,
    **INPUTS,
    **ARTIFACTS,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The bundled model cut to its first layer, `m`, and what was compiled of it, `a`, beside a cache for the cases."""
    folder = tmp_path_factory.mktemp("hostile")
    copy("m", MODEL, folder)
    config(num_hidden_layers=1)(folder)
    done = CliRunner().invoke(app, ["compile", str(folder / "m"), "-o", str(folder / "a"), "--recipe", "int8"])
    assert done.exit_code == 0, done.stderr
    return folder


def snapshot(folder: Path, cache: Path) -> dict[str, object]:
    """Every file with its length and time of change; of a cache nothing that is complete, nor locks and notes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        facts = path.lstat()
        within = path == cache or cache in path.parents
        unfinished = path.name.startswith((".", "building-", "damaged-"))
        complete = path.is_dir() or path.name == "lock" or path.parent.name == "verified" or (path.parent / SEAL).exists()
        if within and complete and not unfinished:
            continue
        found[path.relative_to(folder).as_posix()] = path.is_dir() or (facts.st_size, facts.st_mtime_ns)
    return found


def small_files() -> None:
    """No file may grow beyond 4 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))


@pytest.mark.parametrize("name", CASES)
def test_hostile_input_is_refused_in_a_line_and_leaves_nothing_behind(name, base, tmp_path, monkeypatch):
    case = CASES[name]
    for copied in case.copies:
        copy(copied, base / copied, tmp_path)
    case.prepare(tmp_path)
    places = {"folder": tmp_path, "model": base / "m", "m": tmp_path / "m", "a": tmp_path / "a"}
    args = [word.format(**places) for word in shlex.split(case.command)]
    cache = (base if "a" in case.copies else tmp_path) / "cache"
    environment = {"LLMC_CACHE": str(cache), **{key: text.format(**places) for key, text in case.environment.items()}}
    before = snapshot(tmp_path, cache), snapshot(base, cache)
    if case.outside:
        limit = small_files if name == "cache that is full" else None
        code, _, err = outside(args, case.stdin, environment, tmp_path, limit)
    else:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.chdir(tmp_path)
        done = CliRunner().invoke(app, args, input=case.stdin.decode())
        assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
        code, err = done.exit_code, done.stderr
    told = [line for line in err.splitlines() if line.startswith("llmc: error: ")]
    assert code == 2 and len(told) == 1 and "Traceback" not in err, (code, err)
    assert re.search(case.error, told[0]), told[0]
    assert (snapshot(tmp_path, cache), snapshot(base, cache)) == before


def outside(args, stdin, environment, folder, limit):
    """The command in a process of its own, where a plugin of the case may be installed."""
    path = os.pathsep.join([str(folder / "site"), str(Path(__file__).resolve().parents[2])])
    done = subprocess.run(
        [sys.executable, "-m", "llmc.cli.main", *args],
        input=stdin,
        capture_output=True,
        check=False,
        preexec_fn=limit,
        cwd=folder,
        env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def test_plugin_that_raises_at_import_hinders_nobody_else(tmp_path):
    plugin(EVIL)(tmp_path)
    code, out, err = outside(["passes"], b"", {}, tmp_path, None)
    assert code == 0 and "quantize" in out and "llmc: warning: plugin 'evil-entry' of evil is skipped" in err


def test_table_is_long_enough_and_each_kind_of_input_is_in_it():
    assert len(CASES) >= 60 and default().entries("passes")
