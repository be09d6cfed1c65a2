"""What is timed: prompts that are read, sequences that are continued, or both in one step.

Names: `prefill-512` reads a prompt of 512 tokens; `decode-64` continues a sequence of 64 positions, `decode-64x16` sixteen of
them; `mixed` reads four prompts of 128 tokens while it continues twelve sequences of 512 positions; `encode-64` reads 64 whole
sentences of mixed length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SENTENCE_TOKENS = (6, 8, 9, 11, 12, 14, 17, 19, 23, 26, 31, 38, 47, 58, 76, 120)
"""Lengths of sentences, each as often as any other: the median is that of a sentence, the mean that of a short paragraph."""


@dataclass(frozen=True)
class Workload:
    """prompts: their lengths. context: positions that each of `batch` sequences has before. encode: whole sentences."""

    name: str
    prompts: tuple[int, ...] = ()
    context: int = 0
    batch: int = 0
    encode: bool = False

    @property
    def tokens(self) -> int:
        """Of one step."""
        return sum(self.prompts) + self.batch

    @property
    def decodes(self) -> bool:
        """Whether sequences are continued and nothing is read."""
        return not self.prompts

    @property
    def rows(self) -> int:
        """Rows whose logits a step gives: the last of each sequence."""
        return 0 if self.encode else len(self.prompts) + self.batch

    def attended(self, grown: float) -> int:
        """Positions attended to by all tokens of a step, where sequences have grown by so many on the way."""
        read = sum(n * n if self.encode else n * (n + 1) // 2 for n in self.prompts)
        return read + round(self.batch * (self.context + 1 + grown))

    def cached(self, grown: float) -> int:
        """Positions of the cache that a step reads or writes."""
        return 0 if self.encode else sum(self.prompts) + round(self.batch * (self.context + 1 + grown))


def workload(name: str) -> Workload:
    """The workload of a name. Raises ValueError for one that says nothing."""
    if name == "mixed":
        return Workload(name, prompts=(128,) * 4, context=512, batch=12)
    found = re.fullmatch(r"(prefill|encode)-([1-9]\d*)|decode-([1-9]\d*)(?:x([1-9]\d*))?", name)
    if not found:
        forms = "prefill-N, decode-CONTEXT, decode-CONTEXTxBATCH, mixed or encode-N"
        raise ValueError(f"there is no workload '{name}'; write {forms}")
    kind, count, context, batch = found.groups()
    if kind == "prefill":
        return Workload(name, prompts=(int(count),))
    if kind == "encode":
        lengths = SENTENCE_TOKENS
        return Workload(name, prompts=tuple(lengths[(7 * i) % len(lengths)] for i in range(int(count))), encode=True)
    return Workload(name, context=int(context), batch=int(batch or 1))
