"""Executables and contexts: what the conformance suite does not ask of every backend."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from xla_cases import TINY_LM, Runner, captured, error, library_model, lowered, random_ids, reference

import llmc


@pytest.fixture(scope="module", params=["rope", "learned"])
def model(request):
    """A program and its executable."""
    program = captured(library_model(request.param))
    return program, lowered(program)


def test_prefill_decode_forks_and_chunks_meet_in_a_step(model):
    program, executable = model
    prompts = [random_ids(count, count, 101) for count in (40, 33, 1, 70)]
    runner = Runner(executable)
    names = [runner.sequences.create() for _ in prompts]
    runner.step([(names[0], prompts[0][:37]), (names[3], prompts[3][:69])])
    fork = runner.sequences.fork(names[0])
    work = [(0, 37), (1, 0), (2, 0), (3, 69)]
    rows = runner.step([(names[i], prompts[i][start:]) for i, start in work] + [(fork, prompts[1])])
    expected = [reference(program, prompts[i])[start:] for i, start in work]
    expected.append(reference(program, prompts[0][:37] + prompts[1])[37:])
    assert error(rows, np.concatenate(expected)) <= 1e-5


def test_cache_too_large_for_the_machine_is_a_memory_error(model):
    with pytest.raises(MemoryError, match="GB"):
        model[1].context(2**31)


def test_closed_context_gives_its_memory_back(model):
    context = model[1].context(8)
    keys = context.cache[0][0]
    context.close()
    assert keys.is_deleted()


def test_bundled_model_writes_the_text_of_eager_and_shows_its_code():
    eager, xla = (llmc.compile(TINY_LM, backend=backend) for backend in ("eager", "xla"))
    prompts = ["Once upon a time", "The ship"]
    texts = [[result.text for result in model.generate(prompts, max_new_tokens=24)] for model in (eager, xla)]
    assert texts[0] == texts[1]
    assert xla.source() == xla.source("stablehlo") and xla.source("stablehlo").startswith("module @jit_step")
    assert xla.source("hlo").startswith("HloModule jit_step") and "input_output_alias" in xla.source("hlo")


def test_code_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    root = Path(__file__).parents[3]
    (tmp_path / "examples").symlink_to(root / "examples")
    monkeypatch.chdir(tmp_path)
    readme = (root / "plugins" / "llmc-xla" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "page.py").write_text(code)
    assert len(runpy.run_path(str(tmp_path / "page.py"))["data"]) > 1000
    assert "module @jit_step" in capsys.readouterr().out
