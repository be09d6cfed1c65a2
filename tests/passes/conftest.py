"""What the tests of passes share."""

from __future__ import annotations

import pytest
import torch

from llmc.ir.program import Program
from llmc.pipeline.base import Pass, PassContext


@pytest.fixture
def run_pass():
    """Run a pass: the program after it, and what it reported."""

    def run(item: Pass, program: Program) -> tuple[Program, PassContext]:
        context = PassContext(item.name)
        after = item.run(program, context)
        after.verify()
        return after, context

    return run


@pytest.fixture
def difference():
    """Relative difference of the outputs of two programs on random ids."""

    def measure(a: Program, b: Program, vocab: int = 50) -> float:
        ids = torch.randint(0, vocab, (11,), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            x, y = (p.as_module()(ids)["logits"] for p in (a, b))
        return float((x - y).norm() / y.norm())

    return measure
