"""Anonymous memory of a process and of what it starts."""

import sys

from benchmarks.memory import peak_of

TAKE = "import os, subprocess, sys, time; taken = bytearray(b'1') * (100 << 20); "


def peak_in_mb(code):
    return peak_of([sys.executable, "-c", TAKE + code])[0] >> 20


def test_memory_of_programs_that_a_process_starts_is_added():
    child = "import time; taken = bytearray(b'1') * (100 << 20); time.sleep(0.3)"
    assert 200 <= peak_in_mb(f"subprocess.run([sys.executable, '-c', {child!r}])") < 290


def test_memory_that_a_child_still_shares_with_its_parent_counts_once():
    assert 100 <= peak_in_mb("os.fork(); time.sleep(0.3)") < 190
