"""The table of prompt lookup, for texts of any length."""

import dataclasses

import pytest

from benchmarks.prompt_lookup import row
from llmc.runtime.generation import GenerationResult


class Model:
    def __init__(self, new_tokens, accepted):
        self.result = GenerationResult([1], [2] * new_tokens, None, "length", 0.1, 0.5 if new_tokens > 1 else 0.0)
        self.accepted = accepted

    def generate(self, ids, max_new_tokens, temperature, seed, prompt_lookup_num_tokens):
        guessed = {"drafted_tokens": self.accepted * 2, "accepted_tokens": self.accepted} if prompt_lookup_num_tokens else {}
        return dataclasses.replace(self.result, **guessed)


@pytest.mark.parametrize(
    ("new_tokens", "accepted", "expected"),
    [
        (11, 0, "20 | 20 | 1.00 (1.00 to 1.00) | 1.00 | 0, 0"),
        (11, 5, "20 | 20 | 1.00 (1.00 to 1.00) | 2.00 | 10, 5"),
        (1, 0, "ends with its first token | | | |"),
    ],
    ids=["nothing guessed", "guessed", "one token"],
)
def test_a_line_has_five_cells_whatever_was_guessed(new_tokens, accepted, expected):
    assert row(Model(new_tokens, accepted), [1], 0.0, 10, 2) == expected
    assert expected.count("|") == 4
