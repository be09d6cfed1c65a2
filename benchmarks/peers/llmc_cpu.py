"""llmc itself, by saved models of its cpu backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers.base import ROOM, Engine, Side
from benchmarks.workloads import Workload

SIDES = (
    Side("llmc-int4", "llmc int4", "llmc_cpu", "int4", "int4"),
    Side("llmc-int4-head8", "llmc int4, int8 head", "llmc_cpu", "int4-head8", "int4+int8 head"),
    Side("llmc-int8", "llmc int8", "llmc_cpu", "int8", "int8", encoder=True),
    Side("llmc-bf16", "llmc bf16", "llmc_cpu", "bf16", "bf16", encoder=True),
)
HEAD8 = Path(__file__).resolve().parents[1] / "int4_head8.yaml"
WORK = "work.json"


class PeerEngine(Engine):
    """A context for each copy."""

    @staticmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        import llmc
        from llmc.evaluate.limits import decode_work

        model = llmc.compile(checkpoint, recipe=str(HEAD8) if variant == "int4-head8" else variant, threads=2)
        work = {} if model.executable.whole_sequences else {"weight_bytes": decode_work(model.program, 0, 1).bytes}
        model.save(target)
        (target.parent / f"{target.name}.{WORK}").write_text(json.dumps(work))

    def load(self, model: Path, copies: int, threads: int) -> None:
        import llmc
        from llmc.runtime.contract import BLOCK

        self.threads = threads
        self.models: list[Any] = []
        for index in range(copies):
            folder = model if index == 0 else model.with_name(f"{model.name}.copy{index}")
            if not folder.exists():  # mapped files of one name are one memory
                self.models[0].save(folder)
            self.models.append(llmc.load(folder, threads=threads))
        work = json.loads((model.parent / f"{model.name}.{WORK}").read_text())
        self.weight_bytes = int(work.get("weight_bytes", 0))
        self.cache_bytes = self.models[0].executable.block_bytes // BLOCK
        self.contexts: list[Any] = []

    def prepare(self, workload: Workload, copies: int) -> None:
        import numpy as np

        from llmc.runtime.forward import step_rows
        from llmc.runtime.sequences import Sequences, blocks_for, split_steps

        for context in self.contexts:
            context.close()
        self.workload = workload
        random = np.random.default_rng(0)
        vocab = self.models[0].info.vocab_size
        self.prompts = [random.integers(1, vocab, length).tolist() for length in workload.prompts]
        if workload.encode:
            return
        blocks = workload.batch * blocks_for(workload.context + ROOM) + sum(map(blocks_for, workload.prompts))
        self.contexts = [model.executable.context(blocks, self.threads) for model in self.models[:copies]]
        self.sequences = [Sequences(blocks) for _ in self.contexts]
        self.running = [[one.create() for _ in range(workload.batch)] for one in self.sequences]
        self.chosen = [[1] * workload.batch for _ in self.contexts]
        for context, sequences, running in zip(self.contexts, self.sequences, self.running, strict=True):
            texts = [random.integers(1, vocab, workload.context).tolist() for _ in running]
            for parts in split_steps(texts):
                given = [(running[i], texts[i][start:stop]) for i, start, stop in parts]
                step_rows(context, sequences.batch(given, ["none"] * len(given)), "logits")

    def step(self, copy: int) -> None:
        from llmc.runtime.forward import step_largest
        from llmc.runtime.sequences import split_steps

        if self.workload.encode:
            self.models[copy].outputs(self.prompts)
            return
        sequences, chosen = self.sequences[copy], self.chosen[copy]
        names = [*self.running[copy], *(sequences.create() for _ in self.prompts)]
        self.read = names[len(chosen) :]
        runs = [*([token] for token in chosen), *self.prompts]
        following: list[int] = []
        for parts in split_steps(runs):
            given = [(names[i], runs[i][start:stop]) for i, start, stop in parts]
            batch = sequences.batch(given, ["last" if stop == len(runs[i]) else "none" for i, _, stop in parts])
            following += step_largest(self.contexts[copy], batch, "logits").tolist()
        self.chosen[copy] = following[: len(chosen)]

    def reset(self, copy: int) -> None:
        if self.workload.encode:
            return
        for sequence in self.running[copy]:
            self.sequences[copy].truncate(sequence, self.workload.context)
        for sequence in self.read:
            self.sequences[copy].free(sequence)
        self.read = []
