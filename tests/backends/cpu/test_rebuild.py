"""Artifacts whose code is made again: after edits, for other processors, and of damaged files."""

import json

import numpy as np
import pytest

import llmc
from llmc.errors import ArtifactError, ToolchainError
from llmc.runtime.manifest import Manifest
from llmc.runtime.rebuild import rebuild
from tests.backends.cpu.artifacts import VOCAB, change, change_facts, logits


def double(text):
    """model.cpp that gives twice the logits."""
    end = "}\n\n}  // namespace"
    assert text.count(end) == 1
    loop = f"    step.barrier(team);\n    if (team.id == 0) for (int64_t i = 0; i < R * {VOCAB}; i++) output_logits[i] *= 2;\n"
    return text.replace(end, loop + end)


def test_edited_source_is_refused_until_it_is_rebuilt_and_then_runs(model, saved):
    change(saved, "executable/model.cpp", double, listed=False)
    with pytest.raises(ArtifactError, match=r"model\.cpp: its size .*'llmc rebuild .*m' makes the library from sources"):
        llmc.load(saved)
    before = [path.name for path in saved.parent.iterdir()]
    done = rebuild(saved)
    assert (done.lowered, done.edited, done.target) == (False, ("model.cpp",), model.executable.target)
    assert np.array_equal(logits(llmc.load(saved)), 2 * logits(model))
    assert [path.name for path in saved.parent.iterdir()] == before
    assert rebuild(saved).edited == ()
    (saved / "executable" / "model.cpp").write_text(model.source())
    rebuild(saved)
    assert np.array_equal(logits(llmc.load(saved)), logits(model))


def test_edited_kernel_and_a_new_header_are_compiled(model, saved):
    home = saved / "executable"
    (home / "mine.h").write_text("#define MINE 3\n")
    included = '#pragma once\n#include "mine.h"'
    change(saved, "executable/core.h", lambda text: text.replace("#pragma once", included), listed=False)
    change(saved, "executable/model.cpp", lambda text: double(text).replace("*= 2;", "*= MINE;"), listed=False)
    assert rebuild(saved).edited == ("core.h", "model.cpp")
    assert np.array_equal(logits(llmc.load(saved)), 3 * logits(model))
    assert "executable/mine.h" in Manifest.read(saved).files


@pytest.mark.parametrize("name", ["-fplugin=x.cpp", "my kernel.h", "ä.h"])
def test_source_of_an_odd_name_is_refused(saved, name):
    (saved / "executable" / name).write_text("")
    with pytest.raises(ArtifactError, match="names of sources are letters"):
        rebuild(saved)


def test_source_that_is_a_link_is_refused(saved):
    (saved.parent / "extra.cpp").write_text("")
    (saved / "executable" / "extra.cpp").symlink_to(saved.parent / "extra.cpp")
    with pytest.raises(ArtifactError, match=r"extra\.cpp: a link stands where a source should be"):
        rebuild(saved)
    llmc.load(saved)


def test_sources_of_another_interface_are_made_again(model, saved):
    change_facts(saved, abi=1)
    assert rebuild(saved).lowered
    assert np.array_equal(logits(llmc.load(saved)), logits(model))


def test_what_the_compiler_says_is_shown_and_nothing_has_changed(saved):
    change(saved, "executable/model.cpp", lambda text: text + "int x = no_such_name;\n", listed=False)
    before = {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    with pytest.raises(ToolchainError, match=r"model\.cpp:\d+.*\n?.*no_such_name"):
        rebuild(saved)
    assert {path: path.read_bytes() for path in saved.rglob("*") if path.is_file()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["m"]


def test_edit_that_changes_the_interface_is_refused(saved):
    change(saved, "executable/model.cpp", lambda text: text.replace("WEIGHT_BYTES = ", "WEIGHT_BYTES = 1"), listed=False)
    with pytest.raises(ArtifactError, match="bytes of packed weights"):
        rebuild(saved)


@pytest.mark.parametrize("name", ["weights.bin", "model.so", "executable.json"])
def test_damaged_file_is_made_again(model, saved, name):
    (saved / "executable" / name).write_bytes(b"damaged")
    done = rebuild(saved)
    assert done.lowered == (name != "model.so") and not done.edited
    assert np.array_equal(logits(llmc.load(saved)), logits(model))


def test_another_target_is_lowered_again_and_kept(model, saved):
    assert rebuild(saved, target="portable").lowered
    loaded = llmc.load(saved)
    assert loaded.executable.target == "portable" and loaded.info.target == "portable"
    np.testing.assert_allclose(logits(loaded), logits(model), rtol=1e-4, atol=1e-5)
    assert not rebuild(saved).lowered
    assert llmc.load(saved).executable.target == "portable"


def test_code_for_another_processor_is_lowered_for_this_one(model, saved):
    data = json.loads((saved / "manifest.json").read_text())
    data["target"]["needs"] = ["something"]
    (saved / "manifest.json").write_text(json.dumps(data))
    done = rebuild(saved)
    assert done.lowered and done.target == model.executable.target
    assert np.array_equal(logits(llmc.load(saved)), logits(model))


def test_model_of_another_version_is_lowered_again(model, saved):
    data = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**data, "version": 1}))
    with pytest.raises(ArtifactError, match=r"version 1; version 2 is needed. Run 'llmc rebuild"):
        llmc.load(saved)
    assert rebuild(saved).lowered
    assert np.array_equal(logits(llmc.load(saved)), logits(model))


def test_edits_are_not_overwritten_without_being_asked(model, saved):
    change(saved, "executable/model.cpp", double, listed=False)
    with pytest.raises(ArtifactError, match=r"model\.cpp was edited, and would be lost: .* --force"):
        rebuild(saved, target="portable")
    assert rebuild(saved, target="portable", force=True).edited == ("model.cpp",)
    np.testing.assert_allclose(logits(llmc.load(saved)), logits(model), rtol=1e-4, atol=1e-5)


def test_force_makes_the_sources_of_the_program_again(model, saved):
    change(saved, "executable/model.cpp", double, listed=False)
    rebuild(saved)
    done = rebuild(saved, force=True)
    assert done.lowered and (saved / "executable" / "model.cpp").read_text() == model.source()


def test_damaged_program_is_not_lowered(saved):
    path = saved / "program" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ArtifactError, match=r"weights\.safetensors: its content"):
        rebuild(saved, target="portable")
