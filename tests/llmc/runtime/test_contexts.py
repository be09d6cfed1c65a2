"""Contexts: how many threads and blocks, who gets them, and what becomes of them after an error."""

import os
import threading
import time

import numpy as np
import pytest

from llmc.errors import InputError
from llmc.runtime.contexts import ContextPool
from llmc.runtime.contract import check_sizes


@pytest.fixture
def pool(toy):
    executable = toy()
    return ContextPool(executable, 1), executable


class Slow(int):
    """A number of blocks whose comparison takes so long that another thread comes between."""

    def __lt__(self, other):
        time.sleep(0.1)
        return int.__lt__(self, other)

    def __gt__(self, other):
        time.sleep(0.1)
        return int.__gt__(self, other)


@pytest.mark.parametrize("sizes", [(8, 4), (4, 8)])
def test_context_that_is_taken_while_another_comes_back_is_lent_once(pool, sizes):
    lend, executable = pool
    kept, coming = (lend.lease(Slow(size)) for size in sizes)
    kept.__enter__(), coming.__enter__()
    kept.__exit__(None, None, None)
    back = threading.Thread(target=coming.__exit__, args=(None, None, None))
    back.start()
    time.sleep(0.03)
    with lend.lease(2) as one:
        back.join()
        with lend.lease(2) as other:
            assert one is not other
            assert {one, other} == {context for context in executable.contexts if not context.closed}


def test_threads_that_lease_at_once_never_share(pool):
    lend, _ = pool
    users: dict[int, int] = {}
    shared = []

    def work():
        for i in range(300):
            with lend.lease(1 + i % 3) as context:
                users[id(context)] = users.get(id(context), 0) + 1
                shared.extend([context] if users[id(context)] > 1 else [])
                users[id(context)] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not shared


@pytest.mark.parametrize("error", [InputError("refused"), GeneratorExit()])
def test_context_is_kept_after_a_refusal_or_an_early_end(pool, error):
    lend, executable = pool
    with pytest.raises(type(error)), lend.lease(2):
        raise error
    with lend.lease(2) as context:
        assert context is executable.contexts[0] and not context.closed


@pytest.mark.parametrize("error", [RuntimeError(), MemoryError(), KeyboardInterrupt()])
def test_context_is_closed_and_dropped_after_any_other_error(pool, error):
    lend, executable = pool
    with pytest.raises(type(error)), lend.lease(2):
        raise error
    assert executable.contexts[0].closed
    with lend.lease(2) as context:
        assert context is executable.contexts[1]


def test_context_that_is_too_small_or_spare_is_closed(pool):
    lend, executable = pool
    with lend.lease(2), lend.lease(3):
        pass
    with lend.lease(9):
        assert [context.closed for context in executable.contexts] == [True, True, False]


@pytest.mark.parametrize("threads", [0, -1, 1025, 40000, 2**40, 1.5, "2", True])
def test_number_of_threads_that_cannot_be_is_refused(toy, threads):
    with pytest.raises(InputError, match="threads"):
        ContextPool(toy(), threads)


@pytest.mark.parametrize("blocks", [0, -1, 1.5, None])
def test_number_of_blocks_that_cannot_be_is_refused(blocks):
    with pytest.raises(InputError, match="cache_blocks"):
        check_sizes(blocks, 1)


def test_threads_are_by_default_the_cores_that_the_process_may_use():
    assert check_sizes(np.int64(3), None) == (3, len(os.sched_getaffinity(0)))
    assert check_sizes(3, np.int32(7)) == (3, 7)
