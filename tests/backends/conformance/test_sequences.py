"""Sequences that share a cache: forked, truncated, freed, undone; and contexts that know nothing of each other."""

import dataclasses
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc.conformance.forms import CACHE_BLOCKS, Runner, prefill, same_rows
from llmc.conformance.programs import POSITIONS, VOCAB, every_output, some_ids
from llmc.errors import InputError
from llmc.runtime.contract import BLOCK


@pytest.fixture
def executable(subject):
    return subject.lower("every-output", every_output)


@pytest.fixture
def runner(executable):
    return Runner(executable.context(CACHE_BLOCKS))


def alone(executable, ids):
    """Rows of a sequence that has a context to itself."""
    return prefill(executable.context(CACHE_BLOCKS), ids)


def test_forked_sequences_go_their_own_ways(executable, runner):
    start, left, right = (some_ids(n, seed=n) for n in (40, 9, 11))
    a = runner.sequences.create()
    runner.step([(a, start)])
    b = runner.sequences.fork(a)
    rows = runner.step([(a, left), (b, right)])
    assert same_rows(executable, rows[:9], alone(executable, start + left)[40:])
    assert same_rows(executable, rows[9:], alone(executable, start + right)[40:])


def test_fork_of_a_fork_has_the_content_of_the_first(executable, runner):
    ids, tails = some_ids(9), [some_ids(3, seed=n) for n in range(3)]
    names = [runner.sequences.create()]
    runner.step([(names[0], ids)])
    names.append(runner.sequences.fork(names[0]))
    names.append(runner.sequences.fork(names[1]))
    rows = runner.step(list(zip(reversed(names), tails, strict=True)))
    for i, tail in enumerate(tails):
        assert same_rows(executable, rows[3 * i : 3 * i + 3], alone(executable, ids + tail)[9:])


@pytest.mark.parametrize("length", [1, BLOCK, 37])
def test_truncated_sequence_forgets_what_was_cut(executable, runner, length):
    ids = some_ids(50)
    a = runner.sequences.create()
    runner.step([(a, ids[:length] + some_ids(10, seed=9))])
    runner.sequences.truncate(a, length)
    assert same_rows(executable, runner.step([(a, ids[length:])]), alone(executable, ids)[length:])


def test_blocks_of_a_freed_sequence_carry_nothing_over(executable, runner):
    ids = some_ids(40, seed=4)
    a = runner.sequences.create()
    runner.step([(a, some_ids(60))])
    used = set(runner.sequences.table(a).tolist())
    runner.sequences.free(a)
    b = runner.sequences.create()
    assert same_rows(executable, runner.step([(b, ids)]), alone(executable, ids))
    assert set(runner.sequences.table(b).tolist()) & used


def test_fork_whose_step_was_refused_keeps_its_copy(executable, runner):
    ids = some_ids(12)
    first = runner.sequences.create()
    runner.step([(first, ids[:9])])
    second = runner.sequences.fork(first)
    batch = runner.sequences.batch([(second, ids[9:])], ["all"])
    with pytest.raises(InputError):
        runner.context.step(dataclasses.replace(batch, inputs={"input_ids": np.full(3, VOCAB)}))
    runner.sequences.undo(batch)
    assert same_rows(executable, runner.step([(second, ids[9:])]), alone(executable, ids)[9:])


def test_contexts_know_nothing_of_each_other(executable):
    texts = [some_ids(40, seed=seed) for seed in (1, 2)]
    runners = [Runner(executable.context(CACHE_BLOCKS)) for _ in texts]
    names = [runner.sequences.create() for runner in runners]  # the same blocks, each in its own cache
    halves = [[r.step([(n, t[at : at + 20])]) for r, n, t in zip(runners, names, texts, strict=True)] for at in (0, 20)]
    for i, ids in enumerate(texts):
        assert same_rows(executable, np.concatenate([half[i] for half in halves]), alone(executable, ids))
    runners[0].context.close()
    assert same_rows(executable, runners[1].step([(runners[1].sequences.create(), texts[0])]), alone(executable, texts[0]))


def test_contexts_step_in_threads_at_once(executable):
    texts = [some_ids(40, seed=seed) for seed in range(4)]
    found = {}

    def work(i):
        runner = Runner(executable.context(CACHE_BLOCKS, threads=1))
        sequence = runner.sequences.create()
        found[i] = np.concatenate([runner.step([(sequence, texts[i][at : at + 10])]) for at in range(0, 40, 10)])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same_rows(executable, found[i], alone(executable, texts[i])) for i in range(len(texts)))


ACTIONS = st.lists(st.tuples(st.sampled_from(["create", "fork", "truncate", "free", "step", "step"]), st.integers(0, 99)),
                   min_size=4, max_size=14)  # fmt: skip


@settings(max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS)
def test_whatever_is_done_to_sequences_their_rows_are_those_of_their_texts(subject, actions):
    executable = subject.lower("every-output", every_output)
    runner, texts = Runner(executable.context(CACHE_BLOCKS)), {}
    texts[runner.sequences.create()] = []
    for action, number in actions:
        chosen = sorted(texts)[number % len(texts)] if texts else None
        if action == "create" or chosen is None:
            texts[runner.sequences.create()] = []
        elif action == "fork":
            texts[runner.sequences.fork(chosen)] = list(texts[chosen])
        elif action == "truncate":
            texts[chosen] = texts[chosen][: number % (len(texts[chosen]) + 1)]
            runner.sequences.truncate(chosen, len(texts[chosen]))
        elif action == "free":
            runner.sequences.free(chosen)
            del texts[chosen]
        else:
            step_all(executable, runner, texts, number)


def step_all(executable, runner, texts, number):
    """Some tokens more for every other sequence, or for each, in one step."""
    chosen = sorted(texts)[number % 2 :: 1 + number % 2] or sorted(texts)
    work = [(name, some_ids(1 + (number + 7 * i) % 19, seed=number + i)) for i, name in enumerate(chosen)]
    work = [(name, ids) for name, ids in work if len(texts[name]) + len(ids) <= POSITIONS]
    if not work:
        return
    rows, start = runner.step(work), 0
    for name, ids in work:
        before = len(texts[name])
        texts[name] = texts[name] + ids
        assert same_rows(executable, rows[start : start + len(ids)], alone(executable, texts[name])[before:])
        start += len(ids)
