"""A sitting of sides that are only pretended: what is kept, and what becomes of a side that ends."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks import session
from benchmarks.client import Client, PeerError
from benchmarks.peers import SIDES
from benchmarks.shapes import SHAPES

GOOD, BAD = SIDES["llmc-int8"], SIDES["torch-bf16"]


class Pretended:
    """In the place of a client. `samples` of all sides together are counted; at some of them something happens."""

    samples = 0
    events = {}

    def __init__(self, side, home, threads, log):
        self.side = side

    def ask(self, call, **arguments):
        if call == "tune":
            return {"setting": "as fast as can be" if self.side is BAD else ""}
        if call == "load":
            return {"weight_bytes": 1000, "cache_bytes": 10}
        if call == "sample":
            Pretended.samples += 1
            if Pretended.samples in self.events and self.events[Pretended.samples][0] is self.side:
                raise self.events[Pretended.samples][1]
            return {"seconds": 0.1, "faults": 7 * (self.side is BAD)}
        return {}

    def close(self):
        pass


@pytest.fixture
def sit(monkeypatch, tmp_path):
    monkeypatch.setattr(session, "Client", Pretended)
    monkeypatch.setattr(session, "model_of", lambda *given: tmp_path)
    monkeypatch.setattr(session.limits, "measure", lambda threads: {"read": 1e10, "int8": 1e12})
    monkeypatch.setattr(session, "PAUSE", 0)
    monkeypatch.setattr(Pretended, "samples", 0)

    def sit(events):
        monkeypatch.setattr(Pretended, "events", events)
        works = ["decode-8", "prefill-16"]
        command.sat(tmp_path, [SHAPES["tiny"]], [GOOD, BAD], works, 3, 1, False, tmp_path / "deep" / "x")

    yield sit, tmp_path / "deep" / "x.json"


def test_a_sitting_that_is_cut_off_leaves_the_workloads_that_were_measured(sit):
    run, path = sit
    with pytest.raises(KeyboardInterrupt):  # the second workload, after 2 warm-ups and 3 rounds of 2 sides
        run({15: (GOOD, KeyboardInterrupt())})
    data = json.loads(path.read_text())
    assert [(one["workload"], len(one["seconds"])) for one in data["runs"]] == [("decode-8", 3)] * 2
    assert "tiny, decode-8 (3 rounds)" in path.with_suffix(".md").read_text()
    assert sorted(file.name for file in path.parent.iterdir()) == ["x.json", "x.md"]


def test_a_side_that_ends_is_listed_and_the_others_go_on(sit):
    run, path = sit
    run({8: (BAD, PeerError("the process ended with code -9"))})
    data = json.loads(path.read_text())
    assert [(one["workload"], one["side"]) for one in data["runs"]] == [
        ("decode-8", GOOD.key), ("prefill-16", GOOD.key), ("prefill-16", BAD.key),
    ]  # fmt: skip
    assert data["failures"] == [["tiny", "decode-8", BAD.label, "the process ended with code -9"]]


def test_what_a_side_was_set_to_stands_in_the_table(sit):
    run, path = sit
    run({})
    assert f"- {BAD.label}: as fast as can be" in path.with_suffix(".md").read_text()


def test_a_side_that_waited_for_a_disk_is_named(sit):
    run, path = sit
    run({})
    data = json.loads(path.read_text())
    assert [one["faults"] for one in data["runs"]] == [0, 21] * 2
    told = f"Memory was short: pages were read from a disk within samples: {BAD.label} 21."
    assert told in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("how", ["killed", "amid its answer"])
def test_a_process_that_ended_is_an_error_of_its_side_each_time(how, tmp_path):
    with Client(BAD, tmp_path, 1, tmp_path / "log") as client:
        assert client.ask("memory")["peak_bytes"] > 0
        if how == "killed":
            client.process.kill()
        else:
            client.process.stdin.close()
            client.process.stdin = (tmp_path / "in").open("w")
            client.process.stdout = (tmp_path / "log").open()
            (tmp_path / "log").write_text('{"seconds": 1')
        for _ in range(2):
            with pytest.raises(PeerError, match="the process ended with code"):
                client.ask("memory")
