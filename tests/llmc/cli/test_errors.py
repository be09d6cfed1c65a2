"""What a user can get wrong: one line that says what to do, exit code 2, nothing half-written."""

import shutil

import pytest

import llmc
from llmc.errors import ArtifactError
from llmc.plugins.registry import default
from tests.llmc.cli.conftest import MODEL

HELD_OUT = MODEL / "heldout.txt"


def checked(result, *expected):
    """The error line of a failed call."""
    code, out, err = result
    [line] = [line for line in err.splitlines() if line.startswith("llmc: error: ")]
    assert code == 2 and out == "" and "Traceback" not in err
    for text in expected:
        assert str(text) in line
    return line


COMPILE = {
    "no such folder": (["./nowhere"], ["./nowhere", "no such folder"]),
    "no config": (["{empty}"], ["config.json"]),
    "unknown recipe": (["{model}", "--recipe", "int9"], ["'int9'", "'int8'"]),
    "unknown pass": (["{model}", "--pass", "fuse-qvk"], ["'fuse-qvk'", "'fuse-qkv'"]),
    "unknown option": (["{model}", "--pass", "quantize:bit=8"], ["quantize", "'bit'", "bits"]),
    "option of another type": (["{model}", "--pass", "quantize:bits=7"], ["quantize", "bits"]),
    "malformed option": (["{model}", "--pass", "quantize:bits"], ["NAME:key=value"]),
    "unknown backend": (["{model}", "--backend", "gpu"], ["'gpu'", "eager"]),
    "pass that matches nothing": (["{model}", "--pass", "raise-activations"], ["raise-activations", "matched nothing"]),
    "context beyond the model": (["{model}", "--max-context", "513"], ["513", "512"]),
}


@pytest.mark.parametrize("case", COMPILE)
def test_compile_refuses(run, tmp_path, case):
    (tmp_path / "empty").mkdir()
    args, expected = COMPILE[case]
    filled = [arg.format(model=MODEL, empty=tmp_path / "empty") for arg in args]
    checked(run("compile", *filled, "-o", tmp_path / "out"), *expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_compile_does_not_replace_something_else(run, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    checked(run("compile", MODEL, "-o", tmp_path), tmp_path, "not replaced")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_compile_does_not_compile_twice(run, artifact, tmp_path):
    checked(run("compile", artifact, "-o", tmp_path / "again"), "compiled already")


def test_failing_compiler_is_told_with_its_output(run, tmp_path, monkeypatch):
    failing = tmp_path / "cxx"
    failing.write_text("#!/bin/sh\necho 'model.cpp:1: out of coffee' >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setenv("CXX", str(failing))
    code, _, err = run("compile", MODEL, "-o", tmp_path / "out")
    assert code == 2 and "out of coffee" in err and "status 3" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_missing_compiler_is_told(run, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    checked(run("compile", MODEL, "-o", tmp_path / "out"), "no-such-compiler", "install g++")


GENERATE = {
    "no tokens": (["--max-new-tokens", "0"], ["max_new_tokens"]),
    "negative temperature": (["--temperature", "-1"], ["temperature"]),
    "top-p of zero": (["--top-p", "0"], ["top_p"]),
    "recipe for a compiled model": (["--recipe", "int8"], ["--recipe"]),
    "unknown backend": (["--backend", "gpu"], ["'gpu'"]),
}


@pytest.mark.parametrize("case", GENERATE)
def test_generate_refuses(run, artifact, case):
    args, expected = GENERATE[case]
    checked(run("generate", artifact, "def", *args), *expected)


def test_generate_refuses_a_prompt_beyond_the_context(run, artifact):
    checked(run("generate", artifact, "-", stdin="x = 1\n" * 400), "512")


def test_generate_refuses_an_empty_prompt(run, artifact):
    checked(run("generate", artifact, ""), "empty")


@pytest.mark.parametrize("name", ["executable/weights.bin", "program/program.json", "tokenizer/tokenizer.json"])
def test_damaged_artifact_is_refused_by_the_file_s_name(run, artifact, tmp_path, name):
    copy = shutil.copytree(artifact, tmp_path / "copy")
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    checked(run("generate", copy, "def"), name, "damaged")


def test_model_without_tokenizer_reads_no_text(run, tmp_path):
    shutil.copytree(MODEL, tmp_path / "m", ignore=shutil.ignore_patterns("tokenizer*"))
    options = ("--backend", "eager")
    checked(run("generate", tmp_path / "m", "def", *options), "no tokenizer")
    checked(run("eval", tmp_path / "m", "--text", HELD_OUT, *options), "no tokenizer")


EVAL = {
    "no such text": (["--text", "nowhere.txt"], ["nowhere.txt"]),
    "window beyond the context": (["--text", HELD_OUT, "--window", "600"], ["window", "512"]),
    "another model's text": (["--text", MODEL / "model.safetensors"], ["model.safetensors", "UTF-8"]),
    "no such original": (["--text", HELD_OUT, "--against", "./nowhere"], ["./nowhere"]),
}


@pytest.mark.parametrize("case", EVAL)
def test_eval_refuses(run, artifact, case):
    args, expected = EVAL[case]
    checked(run("eval", artifact, *args), *expected)


def test_inspect_refuses_a_pass_that_did_not_run(run, artifact):
    checked(run("inspect", artifact, "--after", "fuse-qkv"), "fuse-qkv", "loaded")
    checked(run("inspect", artifact, "--file", "nothing.h"), "nothing.h", "model.cpp")


USAGE = {
    "unknown command": (["frobnicate"], ["'frobnicate'"]),
    "unknown option of a command": (["generate", "m", "x", "--frob"], ["--frob", "generate --help"]),
    "unknown option": (["--frob"], ["--frob"]),
    "missing argument": (["generate"], ["MODEL"]),
    "no thread": (["generate", "m", "x", "--threads", "0"], ["--threads", "1"]),
    "no number": (["generate", "m", "x", "--max-new-tokens", "many"], ["--max-new-tokens"]),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_are_one_line_too(run, case):
    args, expected = USAGE[case]
    assert len(checked(run(*args), *expected)) < 200 and run(*args)[2].count("\n") == 1


def test_misspelt_name_of_a_plugin_to_exclude_is_told(run, monkeypatch):
    monkeypatch.setenv("LLMC_DISABLE_PLUGINS", "builtin-passe")
    default.cache_clear()
    try:
        code, _, err = run("plugins")
    finally:
        default.cache_clear()
    assert code == 0 and "LLMC_DISABLE_PLUGINS" in err and "did you mean 'builtin-passes'?" in err


def test_library_says_of_a_model_that_it_is_not_compiled_yet():
    with pytest.raises(ArtifactError, match="not compiled yet"):
        llmc.load(MODEL)


def test_debug_shows_the_traceback(run):
    code, _, err = run("--debug", "inspect", "./nowhere")
    assert code == 2 and "Traceback" in err and "llmc: error: ./nowhere" in err
