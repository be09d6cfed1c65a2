"""How well embeddings tell similar texts: the rank correlation of their cosines with what people said."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmc.errors import InputError

Encode = Callable[[list[str]], NDArray[np.float32]]
"""Texts to embeddings `[n, D]`."""


def spearman(first: Sequence[float] | NDArray[np.floating], second: Sequence[float] | NDArray[np.floating]) -> float:
    """Spearman's rank correlation; equal numbers share the mean of their ranks."""
    return float(np.corrcoef(ranks(np.asarray(first)), ranks(np.asarray(second)))[0, 1])


def ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """From 0 for the least."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def cosines(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the rows of two arrays, pair by pair."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def read_pairs(path: Path | str) -> tuple[list[float], list[str], list[str]]:
    """Scores and the two texts of each pair, from a file of the STS benchmark (Cer et al. 2017): tab-separated, without quotes.

    Raises InputError naming the line that has no score and two texts.
    """
    scores, first, second = [], [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split("\t")
        try:
            score, a, b = float(fields[4]), fields[5], fields[6]
        except (IndexError, ValueError) as error:
            raise InputError(f"{path}:{number}: a line has seven fields: the fifth a score, then two texts") from error
        scores.append(score)
        first.append(a)
        second.append(b)
    return scores, first, second


def similarity(encode: Encode, path: Path | str) -> float:
    """Spearman's correlation of cosines of embeddings with the scores of a file of pairs."""
    scores, first, second = read_pairs(path)
    return spearman(cosines(encode(first), encode(second)), scores)
