"""How products are cut: by the caches, or as tuning found; and that it changes no bit."""

import numpy as np
import pytest

from llmc.backends.cpu import cuts, tuning
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.cuts import Cuts
from llmc.backends.cpu.targets import AVX2, NEON, PORTABLE, best
from llmc.conformance.formats import stored
from llmc.ir import ops
from llmc.runtime import processor
from tests.backends.cpu.programs import program, step, weight


@pytest.fixture
def note(tmp_path, monkeypatch):
    """Where the result for a target is kept in this test."""
    monkeypatch.setattr(cuts, "_file", lambda target: tmp_path / "tuned" / f"{target.name}.json")
    return lambda target: tmp_path / "tuned" / f"{target.name}.json"


def products(e, ids):
    def product(form):
        x = e.op(ops.embedding, ids, weight(e, f"table_{form}", 50, 131))
        return e.op(ops.linear, x, e.weight(stored(form, 70, 131), form), activations="int8")

    x = e.op(ops.embedding, ids, weight(e, "table_gates", 50, 131))
    gates = e.op(ops.gated_linear, x, e.weight(stored("int4g32", 96, 131), "gates"), activation="silu", activations="int8")
    return product("int8"), product("int4g32"), gates


def test_cuts_change_no_bit(note):
    made = program(products, names=("int8", "int4", "gates"))
    ids = [i % 50 for i in range(150)]
    whole = step(CpuBackend().lower(made), ids)
    small = Cuts(8192, 1024)  # blocks of fewer rows than there are, codes of one group at a time
    cuts.keep(best(), small)
    executable = CpuBackend().lower(made)
    assert any(small.text in text for text in executable.sources().values())
    assert cuts.read(executable.sources().values()) == small
    for name, values in step(executable, ids).items():
        assert np.array_equal(values, whole[name]), name


def test_cuts_follow_from_the_second_cache_of_the_machine_that_code_is_for(note, monkeypatch):
    monkeypatch.setattr(processor, "cache_bytes", lambda level: {2: 256 << 10}[level])
    assert cuts.of(PORTABLE) == Cuts(96 << 10, 32 << 10)
    other = NEON if AVX2.machine == PORTABLE.machine else AVX2
    assert cuts.of(other) == cuts.modelled(cuts.SECOND_CACHE)
    monkeypatch.setattr(processor, "cache_bytes", lambda level: 0)
    assert cuts.of(PORTABLE) == cuts.modelled(cuts.SECOND_CACHE)


@pytest.mark.parametrize("size", ["1.5", "-1", "1e99", "4294967296", "true"])
def test_size_that_cannot_be_is_not_believed(note, size):
    damaged(note, f'{{"rows": {size}, "codes": 1}}')


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_damaged_note_is_not_believed(note, text):
    damaged(note, text)


def damaged(note, text):
    path = note(PORTABLE)
    path.parent.mkdir()
    path.write_text(text)
    assert cuts.of(PORTABLE) == cuts.of_machine(PORTABLE)


def rounds(*speedups):
    """Rates of two choices, the second so many times as fast as the first in each round; the machine slows down meanwhile."""
    return [[{"int8": 1 / (i + 1)}, {"int8": speedup / (i + 1)}] for i, speedup in enumerate(speedups)]


def test_another_choice_is_taken_only_where_it_is_faster_for_sure():
    assert tuning.choose(rounds(1.1, 1.2, 0.9, 1.1, 1.1)) == 1
    assert tuning.choose(rounds(1.1, 1.2, 0.9, 1.01, 1.1)) == 0
    assert tuning.choose(rounds(0.5, 0.5, 0.5, 0.5, 0.5)) == 0


def test_tuning_tries_all_choices_and_keeps_the_one_that_it_tells(note, monkeypatch):
    monkeypatch.setattr(tuning, "SHARES", ((1, 1), (1 / 3, 1 / 4)))
    trials = CpuBackend().tune()
    assert len(trials) == 2 and set(trials[0].speedups.values()) == {1.0} and "by the size of the cache" in trials[0].setting
    assert all(trial.speedups.keys() == {"int8", "int4"} for trial in trials)
    (chosen,) = (trial for trial in trials if trial.chosen)
    assert chosen.setting.startswith(f"{cuts.of(best()).rows >> 10} KB of rows")
