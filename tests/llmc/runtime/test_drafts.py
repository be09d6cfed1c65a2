"""How long drafts are, by measured times and by how often guesses were right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.runtime.drafts import PROBE, Drafting, StepSeconds
from llmc.runtime.prompt_lookup import Guess
from llmc.runtime.sequences import STEP_TOKENS

SURE = Guess(list(range(10)), 8)


def drafting(seconds, right=True, lessons=40):
    """One for which steps of 1 to 11 rows take `seconds(rows)`, and guesses were right, or wrong, so many times."""
    made = Drafting()
    for rows in range(1, 12):
        made.seconds.add(rows, seconds(rows))
    for _ in range(lessons):
        made.learn(SURE, SURE.tokens if right else [99])
    return made


def test_seconds_are_medians_and_lines_between_them():
    seconds = StepSeconds()
    assert not seconds.knows(5)
    for value in (4.0, 900.0, 4.0, 5.0, 5.0):
        seconds.add(2, value)
    seconds.add(6, 13.0)
    assert not seconds.knows(1) and seconds.knows(2)
    assert [seconds[rows] for rows in (2, 3, 4, 6)] == [5.0, 7.0, 9.0, 13.0]
    assert seconds[7] > 13.0
    for _ in range(3):
        seconds.add(2, 1.0)
    assert seconds[2] == 1.0, "old samples are forgotten"


def test_right_guesses_are_drafted_whole_and_wrong_ones_not_at_all():
    cheap = lambda rows: 1 + 0.1 * rows  # noqa: E731
    assert drafting(cheap).lengths([SURE]) == [10]
    assert drafting(cheap, right=False).lengths([SURE]) == [0]


def test_rows_that_cost_as_much_as_a_step_are_not_drafted():
    assert drafting(lambda rows: rows, right=True).lengths([SURE]) == [0]


def test_drafts_end_where_rows_become_dear():
    assert drafting(lambda rows: 1 if rows <= 4 else 8).lengths([SURE]) == [3]


def test_rows_go_to_the_sequence_whose_guess_is_likelier():
    made = drafting(lambda rows: 1 if rows <= 7 else 9)
    for _ in range(40):
        made.learn(Guess([1], 1), [2])
    assert made.lengths([Guess([5] * 4, 1), None, SURE]) == [0, 0, 4]


def test_nothing_is_drafted_before_a_step_without_drafts_was_timed():
    made = Drafting()
    assert made.lengths([SURE, SURE]) == [0, 0]
    made.seconds.add(2, 1.0)
    assert sum(made.lengths([SURE, SURE])) > 0


@pytest.mark.parametrize("right", [True, False])
def test_what_was_decided_is_tried_the_other_way_now_and_then(right):
    made = drafting(lambda rows: 1 + 0.1 * rows, right)
    decisions = [made.lengths([SURE])[0] for _ in range(3 * PROBE)]
    usual, other = (10, 0) if right else (0, 1)
    assert set(decisions) == {usual, other} and decisions.count(other) == 2


def test_learning_looks_at_a_guess_up_to_its_first_error_by_length_of_match():
    made = drafting(lambda rows: 1 + 0.1 * rows, lessons=0)
    for _ in range(60):
        made.learn(Guess([1, 2, 3], 1), [1, 7])  # right after one token, wrong after two
    assert made.lengths([Guess([1, 2, 3], 1)]) == [1]


@pytest.mark.parametrize(("sequences", "drafted"), [(100, 412), (511, 1), (512, 0), (600, 0)])
def test_drafts_are_no_more_than_one_step_takes(sequences, drafted):
    made = drafting(lambda rows: 1.0)
    made.seconds.add(5000, 1.0)
    assert sum(made.lengths([SURE] * sequences)) == drafted


@given(st.lists(st.none() | st.tuples(st.integers(1, 12), st.integers(1, 8)), min_size=1, max_size=600), st.data())
def test_drafts_are_beginnings_of_guesses_and_fit_one_step(shapes, data):
    made = Drafting()
    for rows in data.draw(st.lists(st.integers(1, 700), max_size=5)):
        made.seconds.add(rows, data.draw(st.floats(1e-6, 1.0)))
    guesses = [shape and Guess([0] * shape[0], shape[1]) for shape in shapes]
    lengths = made.lengths(guesses)
    assert len(lengths) == len(guesses)
    assert all(0 <= length <= (len(guess.tokens) if guess else 0) for length, guess in zip(lengths, guesses, strict=True))
    assert not sum(lengths) or len(guesses) + sum(lengths) <= STEP_TOKENS
