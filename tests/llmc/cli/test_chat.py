"""Talking with a model through a pipe and at a terminal."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

from llmc.backends.eager.backend import EagerExecutable
from tests.llmc.cli.conftest import MODEL


def test_pipe_gives_a_reply_a_line_and_tells_that_there_is_no_template(run, artifact):
    code, out, err = run("chat", artifact, "--max-new-tokens", 4, stdin="def add\n\n/frob\n/reset\nimport os\n/quit\nnever\n")
    assert code == 0 and "no chat template" in err and "there is no /frob" in err and "forgotten" in err
    assert len(out.splitlines()) >= 2 and "never" not in out


def test_json_is_an_object_a_turn(run, artifact):
    code, out, _ = run("chat", artifact, "--max-new-tokens", 4, "--json", stdin="def add\nimport os\n")
    turns = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [turn["user"] for turn in turns] == ["def add", "import os"]
    assert turns[0]["reused_tokens"] == 0 < turns[0]["prompt_tokens"] <= turns[1]["reused_tokens"]
    assert all(turn["new_tokens"] == 4 and turn["finish_reason"] == "length" for turn in turns)


def test_prompt_lookup_gives_the_same_replies(run, artifact):
    said = "x = 1\n" * 6
    command = "chat", artifact, "--max-new-tokens", 30, "--json"
    plain, guessing = (
        [json.loads(line) for line in run(*command, *more, stdin=said)[1].splitlines()]
        for more in ((), ("--prompt-lookup", 6))
    )
    assert [turn["reply"] for turn in plain] == [turn["reply"] for turn in guessing]
    assert sum(turn["drafted_tokens"] for turn in plain) == 0 < sum(turn["drafted_tokens"] for turn in guessing)


def test_prompt_lookup_is_refused_before_anything_is_said(run, monkeypatch):
    monkeypatch.setattr(EagerExecutable, "row_exact", False)
    code, out, err = run("chat", MODEL, "--backend", "eager", "--prompt-lookup", 4, stdin="def\nimport\n")
    assert code == 2 and out == "" and err.count("is not row_exact") == 1 and "no chat template" not in err


def test_context_that_is_full_ends_a_pipe(run, artifact):
    code, out, err = run("chat", artifact, "--max-new-tokens", 2, "--json", stdin=f"def\n{'x = 1 ' * 400}\n")
    assert code == 2 and "llmc: error: the conversation has" in err and len(out.splitlines()) == 1


class Terminal:
    """The other end of a terminal: what it shows is read piece by piece, and waited for no longer than a minute."""

    def __init__(self, end):
        self.end, self.unread = end, ""

    def until(self, text, seconds=60):
        """What was shown up to a text and with it."""
        last = time.monotonic() + seconds
        while text not in self.unread:
            ready, _, _ = select.select([self.end], [], [], max(last - time.monotonic(), 0))
            assert ready, self.unread
            self.unread += os.read(self.end, 4096).decode(errors="replace")
        shown, found, self.unread = self.unread.partition(text)
        return shown + found


def test_interrupt_at_a_terminal_ends_the_reply_and_not_the_conversation(artifact):
    ours, theirs = pty.openpty()
    terminal = Terminal(ours)
    # No line breaks in the replies that this asks for end it early: the model writes 400 tokens if it is let.
    command = [sys.executable, "-m", "llmc.cli.main", "chat", str(artifact), "--max-new-tokens", "400", "--threads", "1"]
    talk = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    try:
        terminal.until("> ")
        os.write(ours, b"x = 1\n")
        terminal.until("x = 1\r\n")
        time.sleep(0.05)
        talk.send_signal(signal.SIGINT)
        shown = terminal.until("ended by ") + terminal.until("> ")
        os.write(ours, b"/quit\n")
        assert talk.wait(20) == 0 and "Traceback" not in shown
    finally:
        talk.kill()
        talk.wait()
        os.close(ours)
        os.close(theirs)
