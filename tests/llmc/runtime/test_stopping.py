"""Stop strings across pieces."""

from hypothesis import given
from hypothesis import strategies as st

from llmc.runtime.stopping import StopFilter


def run(stop: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    found = StopFilter(stop)
    shown = []
    for piece in pieces:
        text, stopped = found.push(piece)
        shown.append(text)
        if stopped:
            return shown, True
    return [*shown, found.flush()], False


def test_text_that_could_begin_a_stop_string_is_held_back():
    assert run(("END",), ["aE", "N", "x", "EN"]) == (["a", "", "ENx", "", "EN"], False)


def test_stop_string_over_several_pieces_is_cut():
    assert run(("END",), ["say E", "N", "D and more"]) == (["say ", "", ""], True)


def test_earliest_of_several_stop_strings_counts():
    assert run(("cd", "b"), ["abcd"]) == (["a"], True)


def test_without_stop_strings_nothing_is_held():
    assert run((), ["a", "b"]) == (["a", "b", ""], False)


@given(st.lists(st.text("ab", max_size=4)), st.lists(st.text("ab", min_size=1, max_size=4)))
def test_shown_text_is_cut_at_the_first_stop_string_completed(pieces, stop):
    shown, stopped = run(tuple(stop), pieces)
    text = ""
    for piece in pieces:
        text += piece
        if any(one in text for one in stop):
            assert stopped
            text = text[: min(text.index(one) for one in stop if one in text)]
            break
    else:
        assert not stopped
    assert "".join(shown) == text
