"""How far long work is, on a terminal and elsewhere."""

import os
import pty
import subprocess
import sys

from llmc.cli.progress import _Lines


def test_counted_stages_are_told_about_ten_times_elsewhere(capsys):
    show = _Lines()
    show("reading")
    for done in range(1, 251):
        show("window", done, 250)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading" and lines[-1] == "window, 250 of 250" and len(lines) == 11


def test_terminal_gets_a_bar_that_is_gone_at_the_end():
    code = "from llmc.cli.progress import progress\nwith progress('reading') as show:\n  show('pass a', 1, 8)\nprint('done')"
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", code], stderr=theirs, capture_output=False, stdout=subprocess.PIPE, text=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.stdout == "done\n" and "pass a" in shown and "1/8" in shown and shown.rstrip().endswith("\x1b[2K")
