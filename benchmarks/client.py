"""A side's process, seen from the one that asks it for samples."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.home import ROOT
from benchmarks.peers import launch
from benchmarks.peers.base import Side


class PeerError(Exception):
    """A side that cannot be built, loaded or run; the message says why."""


class Client:
    """Starts the worker of a side, which answers one call at a time. log: takes what it prints. pinned: a thread to a core."""

    def __init__(self, side: Side, home: Path, threads: int, log: Path, pinned: bool = True) -> None:
        self.side, self.log = side, log
        python, variables = launch(side, home)
        if not Path(python).exists():
            raise PeerError(f"{side.label} is not installed; run `python -m benchmarks install --side {side.key}`")
        log.parent.mkdir(parents=True, exist_ok=True)
        paths = [str(ROOT), variables.pop("PYTHONPATH", "")]
        given = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        if pinned:
            given |= {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", side.peer],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, **given, **variables}, cwd=ROOT,
            )  # fmt: skip

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a call. Raises PeerError if the worker says so, or has ended."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as error:  # it has ended: before, now, or amid its answer
            self.close()
            raise PeerError(f"the process ended with code {self.process.returncode}; see {self.log}") from error
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
