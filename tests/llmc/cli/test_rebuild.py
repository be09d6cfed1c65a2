"""llmc rebuild and llmc verify."""

import json
import shutil

import pytest


@pytest.fixture
def copy(artifact, tmp_path):
    return shutil.copytree(artifact, tmp_path / "m")


def test_edited_source_is_compiled_and_verify_finds_the_edit(run, copy):
    source = copy / "executable" / "model.cpp"
    text = source.read_text()
    where = text.rindex("0.125f")  # the scale of the attention after the loop over layers
    source.write_text(f"{text[:where]}0.5f{text[where + 6 :]}")
    code, out, err = run("generate", copy, "def")
    assert code == 2 and f"'llmc rebuild {copy}'" in err
    code, out, err = run("rebuild", copy)
    assert code == 0 and "the sources that are there were compiled" in out and "model.cpp: edited" in out
    code, out, err = run("verify", copy)
    assert code == 1, out + err
    assert "was edited, in '// model.layers" in out
    code, out, err = run("rebuild", copy, "--force", "--json")
    assert code == 0 and json.loads(out)["lowered"] is True
    assert source.read_text() == text


def test_verify_prints_every_op_as_json(run, copy):
    code, out, _ = run("verify", copy, "--text", "def f(x):\n    return x\n", "--json")
    data = json.loads(out)
    assert code == 0 and data["agrees"] and data["first"] is None
    assert {"attention", "linear", "rounded_rms_norm"} <= {check["op"] for check in data["ops"]}
    assert all(check["error"] <= check["tolerance"] for check in data["ops"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "avx9000"], "makes no code for 'avx9000'; it does for avx512, "),
        (["--nothing"], "--nothing"),
    ],
)
def test_rebuild_refuses_in_a_line(run, copy, arguments, message):
    code, _, err = run("rebuild", copy, *arguments)
    assert code == 2 and message in err and "Traceback" not in err


def test_rebuild_of_what_is_no_model_is_refused(run, tmp_path):
    code, _, err = run("rebuild", tmp_path / "none")
    assert code == 2 and "there is no such folder" in err
