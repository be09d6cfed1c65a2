"""What the CPU backend keeps of a model: opened without torch, refused if it does not fit."""

import mmap
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmc
from llmc.backends.cpu import artifact
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.executable import open_library
from llmc.errors import ArtifactError, InputError, PluginError
from llmc.ir import ops
from llmc.runtime import processor
from llmc.runtime.manifest import Manifest
from llmc.runtime.model import CompiledModel
from tests.backends.cpu.artifacts import (
    IDS,
    ROOT,
    TOKENIZER,
    VOCAB,
    change,
    change_facts,
    generating,
    list_as_it_is,
    logits,
)
from tests.backends.cpu.programs import program, table


def test_opened_model_gives_the_same_bits_with_weights_mapped(model, saved):
    loaded = llmc.load(saved)
    assert np.array_equal(logits(loaded), logits(model))
    weights = loaded.executable.weights
    assert isinstance(weights.base, memoryview) and isinstance(weights.base.obj, mmap.mmap) and weights.base.readonly
    assert loaded.executable.sources() == model.executable.sources()
    assert loaded.source() == (saved / "executable" / "model.cpp").read_text()
    assert str(loaded.program) == str(model.program)


def test_loading_and_generating_imports_no_torch(saved):
    code = (
        f"import llmc, sys; print(llmc.load({str(saved)!r}).generate('def', max_new_tokens=3).tokens)\n"
        "print([name for name in ('torch', 'transformers', 'networkx', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split("\n")[:2] == [str(llmc.load(saved).generate("def", max_new_tokens=3).tokens), "[]"]


def test_loading_needs_no_compiler(model, saved, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert np.array_equal(logits(llmc.load(saved)), logits(model))


def test_processor_is_checked_before_anything_is_opened(saved, monkeypatch):
    for path in saved.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            path.unlink()
    has = CpuBackend().target
    monkeypatch.setattr(processor, "extensions", lambda: frozenset({"sse2"}))
    with pytest.raises(ArtifactError, match=rf"compiled for {has.name}, but .*{has.needs[0]}.*; 'llmc rebuild .*/m' compiles"):
        llmc.load(saved)


def test_machine_of_another_kind_is_refused(saved, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(ArtifactError, match=r"it is for .* and this is riscv64; 'llmc rebuild"):
        llmc.load(saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"abi": 1}, "interface version 1 .*llmc rebuild"),
        ({"block": 16}, "cache blocks of 16 .*llmc rebuild"),
        ({"abi": "4"}, "executable.json: malformed: abi"),
        ({"extra": 1}, "malformed: extra"),
        ({"inputs": {"input_ids": {"dtype": "int64", "shape": [-1], "limit": None}}}, "inputs.input_ids"),
        ({"inputs": {"input_ids": {"dtype": "int64", "shape": [], "limit": None}}}, "inputs and outputs are not those"),
        ({"outputs": {"logits": {"dtype": "float32", "shape": ["R", 2**60]}}}, "outputs.logits is no type"),
        ({"outputs": {"logits": {"dtype": "float32", "shape": ["R", 4]}}}, "inputs and outputs are not those"),
        ({"outputs": {"logits": {"dtype": "float99", "shape": ["R", 4]}}}, "outputs.logits is no type"),
        ({"outputs": {}}, "no outputs"),
        ({"sources": ["../../secret"]}, "no name of a file"),
        ({"target": "avx9000"}, "there is no 'avx9000'"),
    ],
)
def test_facts_that_cannot_be_are_refused(saved, fields, message):
    change_facts(saved, **fields)
    with pytest.raises(ArtifactError, match=message):
        llmc.load(saved)


@pytest.mark.parametrize("name", ["weights.bin", "model.so", "executable.json", "model.cpp"])
def test_file_that_is_missing_cut_or_changed_is_named(saved, name):
    path = saved / "executable" / name
    data = path.read_bytes()
    for damaged in (None, data[:-1], bytes([data[0] ^ 1]) + data[1:]):
        path.unlink() if damaged is None else path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=name):
            llmc.load(saved)


def test_weights_of_another_size_are_refused_though_the_manifest_lists_them(saved):
    (saved / "executable" / "weights.bin").write_bytes(bytes(64))
    list_as_it_is(saved, "executable/weights.bin")
    with pytest.raises(ArtifactError, match="bytes of packed weights, and there are"):
        llmc.load(saved)


def test_file_that_the_backend_opens_must_be_listed(saved):
    manifest = Manifest.read(saved)
    del manifest.files["executable/model.so"]
    manifest.write(saved)
    with pytest.raises(ArtifactError, match=r"executable/model\.so is not listed"):
        llmc.load(saved)


def test_library_that_is_none_is_refused(saved):
    (saved / "executable" / "model.so").write_bytes(b"no library")
    list_as_it_is(saved, "executable/model.so")
    with pytest.raises(ArtifactError, match=r"cannot load the compiled model: .*llmc rebuild"):
        llmc.load(saved)


def test_program_that_was_exchanged_is_noticed_when_it_is_asked_for(saved):
    change(saved, "program/program.json", lambda text: text.replace('"logits"', '"others"'))
    loaded = llmc.load(saved)
    with pytest.raises(ArtifactError, match="not the program that executable/ was made from"):
        loaded.explain()


def test_damaged_weights_of_the_program_are_noticed_when_it_is_asked_for(model, saved):
    path = saved / "program" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    loaded = llmc.load(saved)
    assert np.array_equal(logits(loaded), logits(model))
    for ask in (loaded.explain, loaded.graph, lambda: loaded.save(saved.with_name("n"))):
        with pytest.raises(ArtifactError, match=r"weights\.safetensors: its content"):
            ask()
    assert [path.name for path in saved.parent.iterdir()] == ["m"]


def test_model_that_is_loaded_stays_while_another_takes_its_place(model, saved):
    """The linker would give the old library under the old name."""
    before = llmc.load(saved)
    other = program(lambda e, ids: e.op(ops.mul, generating(e, ids), 2.0))
    CompiledModel(other, CpuBackend().lower(other), model.info, TOKENIZER).save(saved)
    after = llmc.load(saved)
    assert np.array_equal(logits(after), 2 * logits(model))
    assert np.array_equal(logits(before), logits(model))
    after.save(saved)
    assert np.array_equal(logits(after), logits(llmc.load(saved)))


def test_model_whose_folder_another_took_keeps_its_code_and_does_not_take_the_others_program(model, saved, tmp_path):
    before = llmc.load(saved)
    other = program(lambda e, ids: e.op(ops.mul, generating(e, ids), 2.0))
    CompiledModel(other, CpuBackend().lower(other), model.info, TOKENIZER).save(saved)
    assert before.source() == model.source()
    (tmp_path / "kept").mkdir()
    before.executable.save(tmp_path / "kept")
    assert np.array_equal(logits(CompiledModel(model.program, CpuBackend().open(tmp_path / "kept"), model.info)), logits(model))
    with pytest.raises(ArtifactError, match=r"program/program\.json: its .* damaged or changed"):
        before.explain()


def test_program_is_read_though_the_working_folder_has_changed(model, saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    loaded = llmc.load("m")
    monkeypatch.chdir("/")
    assert str(loaded.program) == str(model.program)


@pytest.mark.parametrize("compiler", ["cc", "./build.sh"])
def test_c_program_of_the_artifact_generates_what_python_does(saved, compiler):
    """Built with the library of the artifact, and with one that its script makes."""
    home = saved / "executable"
    expected = llmc.load(saved).generate(IDS, max_new_tokens=20).tokens
    if compiler != "cc":
        (home / "model.so").unlink()
        subprocess.run([home / "build.sh"], check=True)
    words = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "main.c", "./model.so", "-o", "main"]
    subprocess.run(words, cwd=home, check=True)
    done = subprocess.run(["./main", "20", *map(str, IDS)], cwd=home, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == expected
    beyond = ["52", *map(str, IDS)], "positions of the model"
    for arguments, message in ((["5"], "usage"), (["5", str(VOCAB)], "vocabulary"), (["-5", "1"], "COUNT"), beyond):
        done = subprocess.run(["./main", *arguments], cwd=home, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and message in done.stderr
    (home / "weights.bin").write_bytes(b"short")
    done = subprocess.run(["./main", "1", "1"], cwd=home, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "weights.bin: is not the file" in done.stderr


def test_model_without_logits_has_no_c_program():
    executable = CpuBackend().lower(program(lambda e, ids: table(e, ids), names=("hidden",)))
    assert artifact.MAIN_FILE not in executable.sources()


def test_library_opened_twice_is_opened_once_and_a_new_file_of_its_name_is_another(saved):
    path = saved / "executable" / "model.so"
    names = {open_library(path)._name for _ in range(2)}
    shutil.copyfile(path, path.with_name("copy"))
    path.with_name("copy").replace(path)
    assert len(names) == 1 and open_library(path)._name not in names


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    """An artifact for tests that put back what they change."""
    folder = tmp_path_factory.mktemp("kept") / "m"
    model.save(folder)
    return folder


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_of_any_file_is_refused_or_changes_nothing(model, kept, data):
    """Of the manifest too, which no hash protects. Files are replaced: the library is loaded, and must not change beneath."""

    def put(content):
        path.with_name("new").write_bytes(content)
        path.with_name("new").replace(path)

    path = data.draw(st.sampled_from(sorted(p for p in kept.rglob("*") if p.is_file())), label="file")
    before = path.read_bytes()
    at = data.draw(st.integers(0, len(before) - 1), label="at")
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]), label="kind")
    byte = data.draw(st.integers(1, 255), label="byte")
    middle = {"flip": bytes([before[at] ^ byte]) + before[at + 1 :], "cut": b"", "insert": bytes([byte]) + before[at:]}[kind]
    put(before[:at] + middle)
    try:
        found = logits(llmc.load(kept))
    except (ArtifactError, PluginError, InputError) as error:  # another name of a backend, a shorter context
        assert str(error)
    else:
        assert path.name in ("manifest.json", "weights.safetensors") and np.array_equal(found, logits(model))
    finally:
        put(before)
