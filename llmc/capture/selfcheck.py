"""The proof is about the graph that was traced; that the module itself follows it is looked at on a few lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from llmc.capture.export import Wrapper
from llmc.capture.precision import HALF, InFloat32
from llmc.errors import CaptureError
from llmc.ir.module import run
from llmc.ir.program import Program
from llmc.ir.weights import Stored

TOLERANCE = 1e-3
"""Difference of a row of logits, beside how far rows are from each other: far above rounding, far below another function."""

NOISE = 0.05


def check_lengths(
    wrapper: Wrapper, program: Program, ids: Tensor, others: Mapping[str, Tensor], apart: Iterable[int]
) -> None:
    """Run module and program on all of `ids [1, S]` and others, on one token, on two, and on as many as each number of `apart`.

    torch.export takes sizes of one for special, so code that treats a single token in a way of its own leaves no trace in the
    graph. Raises CaptureError if the logits differ. Meanwhile parameters that are all of one number, as some are before
    training, are stirred, lest a product with zero hides a difference.
    """
    lengths = list(dict.fromkeys((ids.shape[1], 1, 2, *sorted(apart))))
    with stirred(wrapper.module):
        held = {name: w.tensor for name, w in program.weights.items() if isinstance(w, Stored) and w.tensor.dtype in HALF}
        wide = InFloat32((*wrapper.module.parameters(), *held.values()))
        module = partial(run, program, lambda name: held[name] if name in held else program.weights[name].evaluate())
        varying: dict[str, tuple[Tensor, Tensor]] = {}
        for length in lengths:
            cut, *more = (x.repeat(1, -(-length // x.shape[1]))[:, :length] for x in (ids, *others.values()))
            given = dict(zip(others, more, strict=True))
            with torch.no_grad(), wide:
                try:
                    expected = wrapper(cut, given)
                    found = module(cut[0], **{name: value[0] for name, value in given.items()})
                except Exception as error:
                    name, reason = type(wrapper.module).__name__, str(error).strip().split("\n")[0]
                    raise CaptureError(f"{name} fails for a sequence of {length}, which decoding needs: {reason}") from error
            for name in program.outputs:
                rows = found[name].reshape(len(found[name]), -1)
                if name not in varying:
                    varying[name] = centre_and_spread(rows) if len(rows) > 1 else (torch.zeros(rows.shape[1]), rows.norm())
                wanted = expected[name].reshape(-1, rows.shape[-1])  # all positions, the last alone, or the sequence
                apart_by = difference(rows[-len(wanted) :], wanted, *varying[name])
                if not apart_by <= TOLERANCE:
                    raise CaptureError(
                        f"{type(wrapper.module).__name__} computes something else for a sequence of {length} than what was "
                        f"traced for {ids.shape[1]} (difference of a row of {name}, beside how far rows differ: "
                        f"{apart_by:.1e}); make its code the same for every length"
                    )


def centre_and_spread(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of each column, and the usual distance of a row from it: what is the same in all rows tells nothing."""
    finite = torch.where(rows.isfinite(), rows, 0.0).double()
    centre = finite.mean(0)
    return centre, (finite - centre).norm(dim=-1).median()


def difference(found: Tensor, expected: Tensor, centre: Tensor, spread: Tensor) -> float:
    """The largest norm of a row's difference, over its distance from the centre; equal numbers, infinite ones too, agree."""
    same = (found == expected) | (found.isnan() & expected.isnan())
    apart = torch.where(same, 0.0, found.double() - expected.double()).norm(dim=-1)
    distance = (torch.where(expected.isfinite(), expected, 0.0).double() - centre).norm(dim=-1)
    return float((apart / torch.maximum(distance, spread).clamp_min(torch.finfo(torch.float32).tiny)).max())


@contextmanager
def stirred(module: nn.Module) -> Iterator[None]:
    """While active, parameters that are one number all over have a little noise on it; they are put back exactly."""
    generator = torch.Generator().manual_seed(0)
    before = []
    for parameter in module.parameters():
        values = parameter.detach()
        if values.is_floating_point() and values.numel() > 1 and not values.is_inference():
            first, last = values.reshape(-1)[[0, -1]].clone()
            if first == last and bool((values == first).all()):
                before.append((values, first))
    try:
        for values, _ in before:
            values.add_(NOISE * torch.randn(values.shape, generator=generator).to(values.dtype))
        yield
    finally:
        for values, first in before:
            values.fill_(first)
