"""Hostile inputs: recipes, places to write to, machines, plugins, and what a user types."""

from __future__ import annotations

import itertools
import string

from tests.e2e.hostile import Case, deep, file, folder_at, plugin, script

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
