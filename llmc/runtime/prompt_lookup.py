"""Prompt lookup: what followed the last tokens when they came before is a guess at what follows now.

Saxena 2023, "Prompt Lookup Decoding"; Yang et al. 2023, "Inference with Reference: Lossless Acceleration of Large Language
Models".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LONGEST_NGRAM = 3
LONGEST_MATCH = 8
"""More equal tokens than this say no more about the next one."""


class Guess(NamedTuple):
    """Tokens that may follow. match: how many of the last tokens are those that stood before them, at most LONGEST_MATCH."""

    tokens: list[int]
    match: int


class NgramIndex:
    """The tokens of one sequence, and where each n-gram of them, n from 1 to LONGEST_NGRAM, was last followed by another."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self._after: dict[tuple[int, ...], int] = {}  # an n-gram: the place of what followed it last
        for n in range(1, min(LONGEST_NGRAM, len(tokens)) + 1):
            columns = [self._tokens[i : len(self._tokens) - n + i] for i in range(n)]
            self._after.update(zip(zip(*columns, strict=True), range(n, len(self._tokens)), strict=True))

    def push(self, token: int) -> None:
        """One more token."""
        end = len(self._tokens)
        for n in range(1, min(LONGEST_NGRAM, end) + 1):
            self._after[tuple(self._tokens[end - n :])] = end
        self._tokens.append(token)

    def guess(self, most: int) -> Guess | None:
        """What followed the longest n-gram that ends the sequence and came before, where it came last: `most` >= 1 tokens.

        Where fewer followed, the two overlap and the text has a period, in which the guess goes on. None if there is no such
        n-gram.
        """
        tokens, end = self._tokens, len(self._tokens)
        for n in range(min(LONGEST_NGRAM, end), 0, -1):
            start = self._after.get(tuple(tokens[end - n :]))
            if start is not None:
                found = tokens[start : start + most]
                while len(found) < most:
                    found += found[: most - len(found)]
                return Guess(found, self._match(start, n))
        return None

    def _match(self, start: int, known: int) -> int:
        """How many tokens before `start` are the last ones, of which so many are known to be."""
        tokens, end = self._tokens, len(self._tokens)
        match = known
        while match < min(LONGEST_MATCH, start) and tokens[start - match - 1] == tokens[end - match - 1]:
            match += 1
        return match
