"""Generated models in a process: memory that is not there, forks, and libraries made for something else."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmc.backends.cpu import build
from llmc.backends.cpu import executable as module
from llmc.backends.cpu.backend import CpuBackend
from llmc.conformance.forms import prefill
from llmc.conformance.programs import every_output
from llmc.errors import ToolchainError, UnsupportedError

IDS = [(5 * i) % 19 for i in range(40)]


@pytest.fixture(scope="module")
def executable():
    return CpuBackend().lower(every_output())


def used_memory() -> int:
    """Bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def in_child(body) -> int:
    """The exit status of `body()` in a forked process; the negative number of a signal, SIGALRM if it hung."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's handler would never get its turn
        signal.alarm(20)
        status = 1
        try:
            status = body()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_step_in_a_forked_child_is_refused_with_threads_and_done_with_one(executable):
    whole = prefill(executable.context(64, threads=2), IDS)
    kept = executable.context(64, threads=1)

    def refused():
        for context in (executable.context(64, threads=2), executable.context(64)):
            try:
                prefill(context, IDS)
            except UnsupportedError as error:
                assert "threads=1" in str(error)
            else:
                assert context.threads == 1
            context.close()
        return 7

    def done():
        return 7 if all(np.array_equal(prefill(c, IDS), whole) for c in (kept, executable.context(64, threads=1))) else 1

    assert in_child(refused) == 7
    assert in_child(done) == 7


def test_child_of_a_process_that_has_not_stepped_may_use_threads(executable):
    code = (
        "import os, signal\n"
        "from tests.backends.cpu.test_executable import *\n"
        "lowered = CpuBackend().lower(every_output())\n"
        "assert in_child(lambda: 7 * bool(prefill(lowered.context(64, threads=2), IDS).size)) == 7\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=120)


def test_cache_that_does_not_fit_is_refused_and_leaves_nothing_behind(executable):
    """In a process of its own, whose memory is bounded: one of two caches can be made, and must be given back."""
    code = (
        "import resource\n"
        "from tests.backends.cpu.test_executable import *\n"
        "lowered = CpuBackend().lower(every_output())\n"
        "before = used_memory()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (before + 3 * 10**9,) * 2)\n"
        "for _ in range(3):\n"
        "    with pytest.raises(MemoryError, match='no memory for a cache of .* 4.0 GB'):\n"
        "        lowered.context(4 * 10**9 // lowered.block_bytes)\n"
        "    assert used_memory() < before + 10**9\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=120)


@pytest.mark.parametrize("blocks", [2**50, 2**54, 2**60, 2**62 + 1])
def test_cache_of_more_bytes_than_a_number_holds_is_refused(executable, blocks):
    with pytest.raises(MemoryError, match="no memory for a cache"):
        executable.context(blocks)


def test_closed_context_gives_its_memory_back(executable):
    before = used_memory()
    context = executable.context(10**9 // executable.block_bytes)
    assert used_memory() > before + 9 * 10**8
    context.close()
    assert used_memory() < before + 10**8


@pytest.mark.parametrize("change", [("llmc_abi() { return 5", "llmc_abi() { return 4"), ("return BLOCK", "return 16")])
def test_library_made_for_another_interface_or_block_is_refused(tmp_path, monkeypatch, change):
    (tmp_path / "kernels").mkdir()
    for name, text in build.headers().items():
        (tmp_path / "kernels" / name).write_text(text.replace(*change))
    monkeypatch.setattr(build, "KERNELS", tmp_path / "kernels")
    with pytest.raises(ToolchainError, match=r"interface version \d and cache blocks of \d+ positions, not") as caught:
        CpuBackend().lower(every_output())
    assert f"{module.ABI} and cache blocks of 32" in str(caught.value)
