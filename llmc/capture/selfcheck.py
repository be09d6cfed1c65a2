"""The proof is about the graph that was traced; that the module itself follows it is looked at on a few lengths."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from llmc.capture.export import Wrapper
from llmc.errors import CaptureError
from llmc.ir.program import Program

TOLERANCE = 1e-3
"""Relative difference of logits in float32: far above rounding, far below another function."""


def check_lengths(wrapper: Wrapper, program: Program, ids: Tensor, apart: Iterable[int]) -> None:
    """Run module and program on one id, on two, on all of `ids [1, S]`, and on as many as each number of `apart`.

    torch.export takes sizes of one for special, so code that treats a single token in a way of its own leaves no trace in the
    graph. Raises CaptureError if the logits differ.
    """
    module = program.as_module()
    for length in sorted({1, 2, ids.shape[1], *apart}):
        given = ids.repeat(1, -(-length // ids.shape[1]))[:, :length]
        with torch.no_grad():
            try:
                expected = wrapper(given)
            except Exception as error:
                name, reason = type(wrapper.module).__name__, str(error).strip().split("\n")[0]
                raise CaptureError(f"{name} fails for a sequence of {length}, which decoding needs: {reason}") from error
            found = module(given[0])[program.outputs[0]]
        expected = expected.reshape(-1, found.shape[-1])  # all positions, or the last alone
        difference = (found[-len(expected) :] - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float32).tiny)
        if not difference <= TOLERANCE:
            raise CaptureError(
                f"{type(wrapper.module).__name__} computes something else for a sequence of {length} than what was traced for "
                f"{ids.shape[1]} (relative difference of logits {difference:.1e}); make its code the same for every length"
            )
