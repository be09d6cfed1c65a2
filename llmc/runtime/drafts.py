"""How many guessed tokens to verify in a step: as many as make more tokens a second than the step without them.

Tokens that were guessed are read behind the one that was chosen, and the step gives the logits after each. From these a token
is chosen as ever; while it is the one that was guessed, the row after it is that of the text too. This is the verification of
Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", and Chen et al. 2023, "Accelerating Large
Language Model Decoding with Speculative Sampling", for guesses without probabilities of their own: by their rule, too, such a
token is accepted as often as the model would choose it. What is decided here, from measured times, changes how soon a text
comes and never the text.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from statistics import median_low

from llmc.runtime.prompt_lookup import LONGEST_MATCH, Guess
from llmc.runtime.sequences import STEP_TOKENS

ROW_SHARE = 1 / 16
"""What a row is taken to add to a step, as a share of what the step takes for its weights, until more rows were timed."""

SAMPLES = 5
"""Of a number of rows, how many times count: the last ones, as a cache that fills up slows all steps. Odd, for their median."""

PROBE = 64
"""Steps decided alike after which one is decided the other way, so that what speaks against it is measured anew."""

MEMORY = 32
"""Guesses over which a share of right ones is an average, about."""


class StepSeconds:
    """What a step takes, by its rows: medians of what was measured, and between and beyond what follows from the nearest."""

    def __init__(self) -> None:
        self._measured: dict[int, deque[float]] = {}
        self._rows: list[int] = []  # those measured, ascending

    def add(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        if rows not in self._measured:
            self._measured[rows] = deque(maxlen=SAMPLES)
            self._rows.insert(bisect_left(self._rows, rows), rows)
        self._measured[rows].append(seconds)

    def knows(self, rows: int) -> bool:
        """Whether a step of no more rows was measured."""
        return bool(self._rows) and self._rows[0] <= rows

    def __getitem__(self, rows: int) -> float:
        """Seconds that a step of `rows` takes; `knows(rows)` holds."""
        place = bisect_left(self._rows, rows)
        if place < len(self._rows) and self._rows[place] == rows:
            return median_low(self._measured[rows])
        fewer = self._rows[place - 1]
        low = median_low(self._measured[fewer])
        if place == len(self._rows):
            return low * (1 + ROW_SHARE * rows) / (1 + ROW_SHARE * fewer)
        more = self._rows[place]
        return low + (median_low(self._measured[more]) - low) * (rows - fewer) / (more - fewer)


class Drafting:
    """Decides, step for step, how much of each guess is drafted, and learns from what became of it.

    A guess is looked at whether or not it was drafted: the share of right ones, by length of match, costs no step.
    """

    def __init__(self) -> None:
        self.seconds = StepSeconds()
        self._right = [0.5] * (LONGEST_MATCH + 1)  # by length of match: the share of guesses that were right
        self._seen = [1] * (LONGEST_MATCH + 1)
        self._alike = 0  # steps decided the same way, one after the other
        self._drafted = False

    def lengths(self, guesses: Sequence[Guess | None]) -> list[int]:
        """For each sequence of a step, how many tokens of its guess to read with it."""
        rows = len(guesses)
        gains = sorted(
            ((gain, i) for i, guess in enumerate(guesses) if guess for gain in self._gains(guess)), key=lambda one: -one[0]
        )[: max(STEP_TOKENS - rows, 0)]
        if not gains or not self.seconds.knows(rows):
            return [0] * rows
        count = self._best([gain for gain, _ in gains], rows)
        self._alike = self._alike + 1 if bool(count) is self._drafted else 1
        self._drafted = count > 0
        if self._alike > PROBE:
            count, self._alike = int(count == 0), 0
        chosen = Counter(i for _, i in gains[:count])
        return [chosen[i] for i in range(rows)]

    def learn(self, guess: Guess, tokens: Sequence[int]) -> None:
        """These tokens, one or more, were chosen where a guess was made."""
        for depth, (guessed, token) in enumerate(zip(guess.tokens, tokens, strict=False)):
            match = min(guess.match + depth, LONGEST_MATCH)
            self._seen[match] = min(self._seen[match] + 1, MEMORY)
            self._right[match] += ((guessed == token) - self._right[match]) / self._seen[match]
            if guessed != token:
                break

    def _gains(self, guess: Guess) -> list[float]:
        """For each token of a guess, how likely it and those before it are right; each lengthens the match for the next."""
        matches = (min(guess.match + depth, LONGEST_MATCH) for depth in range(len(guess.tokens)))
        return list(accumulate((self._right[match] for match in matches), mul))

    def _best(self, gains: list[float], rows: int) -> int:
        """How many of these rows to add, best first, for the most tokens a second."""
        best, most = 0, rows / self.seconds[rows]
        for count, expected in enumerate(accumulate(gains), 1):
            speed = (rows + expected) / self.seconds[rows + count]
            if speed > most:
                best, most = count, speed
        return best
