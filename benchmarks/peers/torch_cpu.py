"""PyTorch as the `transformers` library runs it, in bfloat16, with a static cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.peers.base import ROOM, Engine, Side
from benchmarks.workloads import Workload

SIDES = (Side("torch-bf16", "PyTorch eager bf16", "torch_cpu", "bf16", "bf16"),)


class PeerEngine(Engine):
    """The folder of the checkpoint is what it reads."""

    @staticmethod
    def build(checkpoint: Path, variant: str, target: Path) -> None:
        target.symlink_to(checkpoint)

    def load(self, model: Path, copies: int, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.models = []
        for _ in range(copies):
            loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()
            for parameter in loaded.parameters():  # mapped files of one name are one memory
                parameter.data = parameter.data.clone()
            self.models.append(self.made(loaded))
        config = loaded.config
        self.config = config
        table = 0 if config.tie_word_embeddings else loaded.get_input_embeddings().weight.numel()
        self.weight_bytes = 2 * (sum(p.numel() for p in loaded.parameters()) - table)
        self.cache_bytes = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim

    def made(self, model: Any) -> Any:
        """The model that runs."""
        return model

    def cache(self, batch: int, positions: int) -> Any:
        """A static cache filled with random numbers."""
        import torch
        from transformers import StaticCache

        config = self.config
        cache = StaticCache(config=config, max_cache_len=positions)
        cache.early_initialization(batch, config.num_key_value_heads, config.head_dim, torch.bfloat16, torch.device("cpu"))
        for layer in cache.layers:
            layer.keys.normal_()
            layer.values.normal_()
        return cache

    def prepare(self, workload: Workload, copies: int) -> None:
        import torch

        self.workload = workload
        vocab = self.config.vocab_size
        lengths = sorted(set(workload.prompts))
        self.prompts = [torch.randint(1, vocab, (workload.prompts.count(n), n)) for n in lengths]
        self.read = [[self.cache(*p.shape) for p in self.prompts] for _ in range(copies)]
        self.running, self.chosen = [], []
        for copy in range(copies):
            if workload.batch:
                self.running.append(self.cache(workload.batch, workload.context + ROOM))
            self.chosen.append(torch.ones((workload.batch, 1), dtype=torch.int64))
            self.reset(copy)

    def step(self, copy: int) -> None:
        model = self.models[copy]
        if self.workload.batch:
            out = model(self.chosen[copy], past_key_values=self.running[copy], use_cache=True, logits_to_keep=1)
            self.chosen[copy] = out.logits[:, -1:].argmax(-1)
        for ids, cache in zip(self.prompts, self.read[copy], strict=True):
            model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits.argmax(-1)

    def reset(self, copy: int) -> None:
        for cache in [*self.read[copy], *self.running[copy : copy + 1]]:
            running = self.workload.batch and cache is self.running[copy]
            for layer in cache.layers:
                layer.cumulative_length.fill_(self.workload.context if running else 0)
