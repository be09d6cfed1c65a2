"""The machine's limits, and what is predicted from them."""

import json
import time
from pathlib import Path

import pytest

import llmc
from llmc.errors import InputError
from llmc.evaluate import limits as module
from llmc.evaluate.limits import Limits, decode_work, known_limits, limits_of, prefill_work
from llmc.evaluate.speed import speed
from llmc.plugins.registry import default
from llmc.runtime.contract import Rate

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"
RATES = {"read": Rate(1e9, 1e9), "int8": Rate(4e9, 4e9), "float32": Rate(1e9, 1e9)}


@pytest.fixture(scope="module")
def model():
    return llmc.compile(MODEL, recipe="int8", backend="cpu", threads=1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMC_CACHE", str(tmp_path))
    return tmp_path


def test_limits_are_measured_once_and_kept_with_their_age(model, cache):
    backend = default().backend("cpu")
    found = limits_of(backend, model.executable, 1)
    assert found.target == model.executable.target and found.threads == 1 and found.age < 1
    assert all(0 < rate.median <= rate.best for rate in found.rates.values()) and found.rates["read"].best > 1e8
    assert limits_of(backend, model.executable, 1) == found == known_limits("cpu", found.target, 1)
    assert known_limits("cpu", found.target, 2) is None and known_limits("eager", "", 1) is None


@pytest.mark.parametrize("target", ["avx512", "avx512-vnni", "avx2-vnni", "avx2", "portable"])
def test_limits_of_every_instruction_set_are_measured(cache, target):
    backend = default().backend("cpu").for_target(target)
    if backend.target.lacking:
        pytest.skip(backend.target.lacking)
    assert {"read", "int8", "float32"} <= backend.measure_limits(1).keys()


@pytest.mark.parametrize("text", ["", "[]", '{"rates": 1}', '{"rates": {"read": {"median": 1, "best": 1}}, "measured": 9e99}'])
def test_damaged_note_of_limits_is_not_believed(cache, text):
    (cache / "limits").mkdir()
    (cache / "limits" / "cpu-avx2-1.json").write_text(text)
    assert known_limits("cpu", "avx2", 1) is None


def test_limits_of_a_time_to_come_are_not_believed(cache):
    module._keep("cpu", Limits(RATES, "avx2", 1, time.time() + 3600))
    assert known_limits("cpu", "avx2", 1) is None


def test_limits_that_are_old_are_not_believed(cache):
    module._keep("cpu", Limits(RATES, "avx2", 1, time.time() - 3600 * (module.HOURS_KEPT - 1)))
    assert known_limits("cpu", "avx2", 1).age == pytest.approx(module.HOURS_KEPT - 1, abs=0.1)
    module._keep("cpu", Limits(RATES, "avx2", 1, time.time() - 3600 * (module.HOURS_KEPT + 1)))
    assert known_limits("cpu", "avx2", 1) is None


def test_decode_reads_all_weights_and_the_cache_and_prefill_reads_them_once(model):
    block_bytes = model.executable.block_bytes
    one, more = (decode_work(model.program, block_bytes, context) for context in (1, 101))
    assert more.bytes - one.bytes == pytest.approx(100 * 4096)
    assert one.bytes == pytest.approx(model.program.weight_bytes() + 4096, rel=0.02)
    prompt = prefill_work(model.program, block_bytes, 100)
    assert prompt.bytes < one.bytes + 100 * (4096 + 4096)
    # The head has one row, so a prompt of 100 tokens costs less than 100 tokens of a decode.
    assert 40 * one.operations["int8"] < prompt.operations["int8"] < 100 * one.operations["int8"]


def test_work_takes_the_longer_of_reading_and_computing(model):
    limits = Limits(RATES, "avx2", 1, time.time())
    work = decode_work(model.program, model.executable.block_bytes, 1)
    compute = work.operations["int8"] / 4e9 + (work.operations["float32"] + work.operations["bfloat16"]) / 1e9
    assert work.seconds(limits) == pytest.approx(max(work.bytes / 1e9, compute))


def test_explanation_predicts_once_limits_are_known(model, cache):
    assert "'llmc bench' measures the machine's limits" in model.explain()
    module._keep("cpu", Limits(RATES, model.executable.target, 1, time.time()))
    limits = known_limits("cpu", model.executable.target, 1)
    expected = 1 / decode_work(model.program, model.executable.block_bytes, 256).seconds(limits)
    assert f"at most {expected:.0f} tokens/s after 256 tokens" in model.explain()


def test_speed_is_that_of_several_runs(model):
    found = speed(model, prompt_tokens=20, new_tokens=5, runs=3)
    assert len(found.decode.values) == len(found.prefill.values) == 3
    assert min(found.decode.values) <= found.decode.median <= max(found.decode.values) and found.context == 22
    assert found.first_token.median == pytest.approx(20 / found.prefill.median)


@pytest.mark.parametrize(("prompt", "new", "runs"), [(0, 5, 1), (5, 1, 1), (5, 5, 0), (500, 14, 1)])
def test_speed_of_nothing_or_too_much_is_refused(model, prompt, new, runs):
    with pytest.raises(InputError):
        speed(model, prompt, new, runs)


def test_notes_of_limits_are_plain_json(cache):
    module._keep("cpu", Limits(RATES, "avx2", 1, 1.0))
    assert json.loads((cache / "limits" / "cpu-avx2-1.json").read_text())["rates"]["read"] == {"median": 1e9, "best": 1e9}
