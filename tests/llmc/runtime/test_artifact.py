"""Saving, loading, and every kind of damage; the backend is a toy."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from llmc.errors import ArtifactError
from llmc.ir import ops
from llmc.ir.edit import Editor
from llmc.ir.weights import Stored
from llmc.pipeline.record import PassRecord
from llmc.plugins import registry
from llmc.runtime import replace
from llmc.runtime.artifact import load, save
from llmc.runtime.contract import Backend
from llmc.runtime.manifest import describe
from llmc.runtime.model import CompiledModel, ModelInfo
from llmc.runtime.rebuild import rebuild
from llmc.runtime.tokenizer import Tokenizer

TOKENIZER = Tokenizer(Path(__file__).parents[3] / "examples" / "tiny_lm" / "model")
INFO = ModelInfo(
    "small", TOKENIZER.vocab_size, 64, "", (0,), 0, recipe="int4", backend="toy", source="hub/id", versions={"llmc": "0.1"}
)
RECORD = PassRecord("fuse", 0.25, 3, [("layers.0", "too narrow")], ["merged two"], 9, 8, 200, 100, 1.5e-7)


@pytest.fixture
def model(toy, monkeypatch):
    """A compiled model whose backend, "toy" or "other", the registry knows."""

    class Toys(Backend):
        name, lowered = "toy", []

        def backend(self, name, lowers=True):
            self.lowered.append(name)
            return self

        def lower(self, program):
            assert list(program.inputs) == ["input_ids"]
            return toy(INFO.vocab_size)

    monkeypatch.setattr(registry, "default", Toys)
    editor = Editor()
    x = editor.op(ops.embedding, editor.input("input_ids"), editor.weight(Stored(torch.ones(INFO.vocab_size, 4)), "embed"))
    editor.outputs = ("logits",)
    editor.graph.output((editor.op(ops.select_rows, x),))
    return CompiledModel(editor.finish(), toy(INFO.vocab_size), INFO, TOKENIZER, [RECORD])


@pytest.fixture
def saved(model, tmp_path):
    save(model, tmp_path / "m")
    return tmp_path / "m"


def change_manifest(folder, change):
    data = json.loads((folder / "manifest.json").read_text())
    change(data)
    (folder / "manifest.json").write_text(json.dumps(data))


def test_loaded_model_is_the_saved_one(model, saved):
    loaded = load(saved)
    assert loaded.info == INFO
    assert loaded.records == [RECORD]
    assert str(loaded.program) == str(model.program)
    assert loaded.explain() == model.explain()
    assert loaded.generate("hello", max_new_tokens=5).text == model.generate("hello", max_new_tokens=5).text
    np.testing.assert_array_equal(loaded([[1, 2]])[0], model([[1, 2]])[0])


def test_backend_and_threads_can_be_chosen_when_loading(saved):
    info = load(saved, backend="other", threads=3).info
    assert (info.backend, info.threads) == ("other", 3)


def test_backend_that_keeps_no_code_has_none_to_rebuild(saved):
    with pytest.raises(ArtifactError, match="backend 'toy' keeps no code; it lowers the program whenever a model is loaded"):
        rebuild(saved)


def test_model_without_tokenizer_has_none_when_loaded(model, tmp_path):
    model.tokenizer = None
    model.save(tmp_path / "m")
    assert load(tmp_path / "m").tokenizer is None


def test_folder_holds_program_tokenizer_source_and_manifest_and_nothing_stands_beside_it(saved):
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    assert files == {
        "manifest.json", "program/program.json", "program/weights.safetensors",
        "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "executable/toy.py", "executable/part/more.txt",
    }  # fmt: skip
    assert [path.name for path in saved.parent.iterdir()] == ["m"]


def test_saved_model_and_empty_folder_are_replaced(model, saved, tmp_path):
    older = CompiledModel(model.program, model.executable, dataclasses.replace(INFO, name="older"))
    save(older, saved)
    assert load(saved).info.name == "older"
    save(model, saved)
    assert load(saved).info.name == "small"
    (tmp_path / "empty").mkdir()
    save(model, tmp_path / "empty")
    load(tmp_path / "empty")
    assert {path.name for path in tmp_path.iterdir()} == {"m", "empty"}


def test_model_is_not_replaced_if_files_of_others_would_be_lost(model, saved):
    (saved / ".git").mkdir()
    (saved / ".git" / "HEAD").write_text("x")
    (saved / "program" / "link").symlink_to("nowhere")
    with pytest.raises(ArtifactError, match=r"would be lost: \.git/HEAD, program/link; move them"):
        save(model, saved)
    assert (saved / ".git" / "HEAD").read_text() == "x"


@pytest.mark.parametrize("exchanges", [True, False])
def test_process_killed_while_it_replaces_loses_neither_model(model, saved, monkeypatch, exchanges):
    """At each of the renames; without an exchange there is a moment when no folder has the name."""
    older = CompiledModel(model.program, model.executable, dataclasses.replace(INFO, name="older"))
    if not exchanges:
        monkeypatch.setattr(replace, "exchange", lambda one, other: False)
    found = set()
    for moment in range(6):
        child = os.fork()
        if child == 0:
            kill_at_rename(moment)
            save(older, saved)
            os._exit(0)
        os.waitpid(child, 0)
        found.add(load(saved).info.name)
        save(model, saved)
    assert found == {"small", "older"}


def kill_at_rename(number):
    """End this process instead of, or just after, its next renames: 0 before the first, 1 after it, 2 before the second..."""
    calls = itertools.count()

    def wrap(function):
        def rename(*args):
            if next(calls) == number:
                os._exit(1)
            result = function(*args)
            if next(calls) == number:
                os._exit(1)
            return result

        return rename

    Path.rename, replace.exchange = wrap(Path.rename), wrap(replace.exchange)


def test_save_and_load_put_back_the_newest_model_that_a_killed_save_left(model, saved):
    for number, mark in enumerate(("1-00000000", "2-00000000")):
        shutil.copytree(saved, saved.with_name(f".m.old-{mark}"))
        change_manifest(saved.with_name(f".m.old-{mark}"), lambda data, number=number: data["info"].update(name=f"m{number}"))
        os.utime(saved.with_name(f".m.old-{mark}"), (number, number))
    load(saved)
    assert load(saved).info.name == "small"
    shutil.rmtree(saved)
    assert load(saved).info.name == "m1"
    shutil.rmtree(saved)
    save(model, saved)
    assert load(saved).info.name == "small"


def test_loaded_model_can_be_saved_over_itself(saved):
    save(load(saved), saved)
    load(saved)


def test_folder_of_something_else_is_not_replaced(model, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "manifest.json").write_text('{"format": "other"}')
    (tmp_path / "file").write_text("mine")
    for name in ("notes", "file"):
        with pytest.raises(ArtifactError, match="not replaced"):
            save(model, tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "notes" / "manifest.json").exists()


def test_failed_save_leaves_the_old_model_and_no_trace(model, saved, monkeypatch):
    before = (saved / "manifest.json").read_bytes()
    monkeypatch.setattr(type(TOKENIZER), "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ArtifactError, match="disk full"):
        save(model, saved)
    assert (saved / "manifest.json").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["m"]
    load(saved)


FILES = ["program/program.json", "program/weights.safetensors", "tokenizer/tokenizer.json", "executable/toy.py"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "longer", "changed", "link"])
def test_damaged_file_is_named(saved, tmp_path, name, damage):
    path = saved / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "longer":
        path.write_bytes(data + b" ")
    elif damage == "changed":
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
    else:
        shutil.copy(path, tmp_path / "elsewhere")
        path.unlink()
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=name):
        load(saved)


def test_linked_folder_is_refused(saved, tmp_path):
    (saved / "program").rename(tmp_path / "program")
    (saved / "program").symlink_to(tmp_path / "program")
    with pytest.raises(ArtifactError, match="program: a link"):
        load(saved)


@pytest.mark.parametrize("name", ["/etc/hostname", "../m/manifest.json", "executable/../../x", "..\\x", "", "."])
def test_file_name_that_leads_outside_is_refused(saved, name):
    change_manifest(saved, lambda data: data["files"].update({name: {"size": 0, "sha256": ""}}))
    with pytest.raises(ArtifactError, match="not a file inside"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(version=99), "version 99; version 2 is needed"),
        (lambda data: data.update(format="other"), "not the manifest of an llmc model"),
        (lambda data: data.pop("files"), "'files' is missing"),
        (lambda data: data.update(files=[]), "'files' an object"),
        (lambda data: data["files"].pop("program/program.json"), "program/program.json is not listed"),
        (lambda data: data["files"].update({"executable/toy.py": 5}), "executable/toy.py"),
        (lambda data: data["info"].update(vocab_size="many"), "vocab_size"),
        (lambda data: data["records"][0].update(seconds="long"), "malformed record of a pass: 0.seconds"),
        (lambda data: data.update(records=[5]), "malformed record"),
        (lambda data: data["info"].update(vocab_size=INFO.vocab_size + 1), "vocab_size is 2049, .* tables for 2048 only"),
        (lambda data: data["info"].update(threads=-1), "threads must be between 1 and 1024"),
        (lambda data: data["info"].update(max_context=float("nan")), "max_context"),
    ],
)
def test_damaged_manifest_is_named(saved, change, message):
    change_manifest(saved, change)
    with pytest.raises(ArtifactError, match=message) as caught:
        load(saved)
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00", "[" * 200_000])
def test_unreadable_manifest_is_named(saved, content):
    (saved / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load(saved)


@pytest.mark.parametrize("depth", [300, 900, 200_000])
def test_program_or_facts_that_are_nested_too_deeply_are_refused(saved, depth):
    program = saved / "program" / "program.json"
    nested = "[" * depth + "]" * depth
    program.write_text(program.read_text().replace('"origin": ', f'"deep": {nested}, "origin": {nested}, "x": ', 1))
    change_manifest(saved, lambda data: data["files"].update({"program/program.json": describe(program)}))
    with pytest.raises(ArtifactError, match=r"m: a file|program\.json"):
        load(saved)
    text = (saved / "manifest.json").read_text()
    (saved / "manifest.json").write_text(text.replace('"eos_ids": [', f'"deep": {nested}, "eos_ids": [', 1))
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load(saved)


def test_missing_folder_or_manifest_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        load(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        load(tmp_path)
