"""Results of an evaluation, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from llmc.evaluate.divergence import Divergence
    from llmc.evaluate.perplexity import Perplexity


def table(result: Perplexity | Divergence) -> Table:
    """A `rich` table: a perplexity, or both perplexities side by side with how far the models are apart."""
    from rich import box
    from rich.table import Table

    from llmc.evaluate.divergence import Divergence

    made = Table(box=box.SIMPLE, pad_edge=False)
    made.add_column("")
    made.add_column("compiled", justify="right")
    if not isinstance(result, Divergence):
        _perplexities(made, result)
        return made
    made.add_column("original", justify="right")
    _perplexities(made, result.compiled, result.original)
    made.add_section()
    made.add_row("KL(original || compiled), nats", f"{result.kl_nats:.3g}")
    made.add_row("same most likely token", f"{result.same_top1:.2%}")
    made.add_row("relative error of logits", f"{result.logits_error:.3g}")
    made.add_row("positions compared", str(result.positions))
    return made


def _perplexities(made: Table, *results: Perplexity) -> None:
    bits = ["" if one.bits_per_byte is None else f"{one.bits_per_byte:.4f}" for one in results]
    made.add_row("perplexity", *(f"{one.perplexity:.4f}" for one in results))
    made.add_row("nats a token", *(f"{one.nats_per_token:.4f}" for one in results))
    made.add_row("bits a byte", *bits)
    made.add_row("tokens predicted", *(str(one.tokens) for one in results))


def to_json(result: Perplexity | Divergence) -> dict[str, Any]:
    """Plain data, by the names of the result's fields."""
    return asdict(result)
