"""Generation with a toy model whose logits can be worked out without cache, steps or batches."""

from pathlib import Path

import numpy as np
import pytest

from llmc.errors import InputError
from llmc.runtime.generate import Generator
from llmc.runtime.generation import GenerationOptions
from llmc.runtime.sampling import SamplingOptions
from llmc.runtime.tokenizer import Tokenizer

TOKENIZER = Tokenizer(Path(__file__).parents[3] / "examples" / "tiny_lm" / "model")
VOCAB = TOKENIZER.vocab_size
SAMPLED = GenerationOptions(max_new_tokens=12, sampling=SamplingOptions(temperature=1.5, seed=3))
PROMPTS = [[5, 6, 7], [9], list(range(100, 170)), [11] * 32, list(range(31))]


def generator(model, max_context=4096, tokenizer=TOKENIZER) -> Generator:
    return Generator(model.lease, VOCAB, max_context, tokenizer)


def greedy(model, prompt, count):
    """What generation should choose, each token from the whole sequence anew."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(np.argmax(model.logits(ids))))
    return ids[len(prompt) :]


def says(toy, text, after=5):
    """A model that continues token `after` with a text in which no token comes twice, and the tokens of that text."""
    ids = TOKENIZER.encode(text)
    assert len({after, *ids}) == len(ids) + 1, "a token comes twice"
    return toy(forced=dict(zip([after, *ids[:-1]], ids, strict=True))), ids


def test_greedy_tokens_are_those_of_the_whole_sequence_read_anew(toy):
    model = toy()
    results = generator(model).generate(PROMPTS, GenerationOptions(max_new_tokens=40))
    for prompt, result in zip(PROMPTS, results, strict=True):
        assert result.tokens == greedy(model, prompt, 40)
        assert result.finish_reason == "length"
        assert (result.prompt_tokens, result.new_tokens) == (len(prompt), 40)


def test_steps_have_at_most_512_tokens_and_cut_prompts_give_the_same(toy):
    model = toy()
    prompts = [[i % VOCAB for i in range(start, start + length)] for start, length in ((0, 700), (7, 3), (9, 400), (1, 512))]
    results = generator(model).generate(prompts, GenerationOptions(max_new_tokens=3))
    assert model.contexts[0].steps == [512, 512, 512, 79, 4, 4]
    assert [result.tokens for result in results] == [greedy(model, prompt, 3) for prompt in prompts]


def test_more_prompts_than_a_step_has_tokens_are_decoded_in_several(toy):
    model = toy()
    results = generator(model, tokenizer=None).generate([[i] for i in range(600)], GenerationOptions(max_new_tokens=2))
    assert model.contexts[0].steps == [512, 88, 512, 88]
    assert results[599].tokens == greedy(model, [599], 2)


def test_sampled_text_does_not_depend_on_the_batch(toy):
    together = generator(toy()).generate(PROMPTS, SAMPLED)
    alone = [generator(toy()).generate([prompt], SAMPLED)[0] for prompt in PROMPTS]
    assert [result.tokens for result in together] == [result.tokens for result in alone]
    assert [result.text for result in together] == [result.text for result in alone]


def test_same_prompt_twice_is_sampled_twice(toy):
    first, other, second = generator(toy()).generate([[5], [6], [5]], SAMPLED)
    assert first.tokens != second.tokens
    assert first.tokens == generator(toy()).generate([[5]], SAMPLED)[0].tokens
    assert other.tokens == generator(toy()).generate([[6]], SAMPLED)[0].tokens


def test_seed_decides(toy):
    def tokens(seed):
        options = GenerationOptions(max_new_tokens=12, sampling=SamplingOptions(temperature=1.5, seed=seed))
        return generator(toy()).generate([[5]], options)[0].tokens

    assert tokens(1) == tokens(1) != tokens(2)


def test_eos_ends_one_prompt_and_the_others_go_on(toy):
    model = toy(forced={20: 21, 21: 2})
    options = GenerationOptions(max_new_tokens=6, eos_ids=frozenset({2, 3}))
    first, second = generator(model).generate([[20], [30]], options)
    assert (first.tokens, first.text, first.finish_reason) == ([21, 2], TOKENIZER.decode([21]), "eos")
    assert (second.tokens, second.finish_reason) == (greedy(model, [30], 6), "length")
    assert model.contexts[0].steps == [2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("stop", [("world",), ("o wor", "nothing"), ("world, this", "zzz")])
def test_text_is_cut_at_a_stop_string_that_spans_tokens(toy, stop):
    text = " hello world, this is fine"
    model, ids = says(toy, text)
    result = generator(model).generate([[5]], GenerationOptions(max_new_tokens=len(ids), stop=stop))[0]
    assert result.text == text[: text.index(stop[0])]
    assert result.finish_reason == "stop"
    assert result.tokens == ids[: result.new_tokens]
    assert result.new_tokens < len(ids)


def test_text_held_back_for_a_stop_string_comes_at_the_end(toy):
    model, ids = says(toy, " hello world")
    result = generator(model).generate([[5]], GenerationOptions(max_new_tokens=len(ids), stop=("world!",)))[0]
    assert (result.text, result.finish_reason) == (" hello world", "length")


def test_stream_gives_the_same_text_piece_by_piece_and_characters_whole(toy):
    text = " one more 🦙, two"
    model, ids = says(toy, text)
    options = GenerationOptions(max_new_tokens=len(ids), stop=("never",))
    pieces = list(generator(model).stream([5], options))
    assert "".join(pieces) == text == generator(model).generate([[5]], options)[0].text
    assert len(pieces) > 3
    assert not any("\ufffd" in piece or piece == "" for piece in pieces)


def test_incomplete_character_at_the_end_is_shown_as_a_replacement(toy):
    model, ids = says(toy, "x🦙")
    result = generator(model).generate([[5]], GenerationOptions(max_new_tokens=len(ids) - 1))[0]
    assert result.text == "x\ufffd"


def test_without_tokenizer_ids_come(toy):
    model = toy()
    options = GenerationOptions(max_new_tokens=4)
    result = generator(model, tokenizer=None).generate([[5]], options)[0]
    assert result.text is None
    assert str(result) == str(greedy(model, [5], 4))
    assert list(generator(model, tokenizer=None).stream([5], options)) == result.tokens


def test_callbacks_are_told_what_the_result_has(toy):
    tokens, pieces = [], []
    results = generator(toy()).generate(
        PROMPTS, SAMPLED, lambda i, token: tokens.append((i, token)), lambda i, piece: pieces.append((i, piece))
    )
    for index, result in enumerate(results):
        assert [token for i, token in tokens if i == index] == result.tokens
        assert "".join(piece for i, piece in pieces if i == index) == result.text


def test_generation_ends_when_the_context_is_full(toy):
    model = toy()
    full, short = generator(model, max_context=64).generate([[5] * 64, [6] * 60], GenerationOptions(max_new_tokens=50))
    assert full.tokens == greedy(model, [5] * 64, 1)
    assert short.tokens == greedy(model, [6] * 60, 5)
    assert {full.finish_reason, short.finish_reason} == {"length"}


def test_cache_has_no_more_blocks_than_the_prompts_can_fill(toy):
    model = toy()
    generator(model).generate([[5] * 30, [6] * 33], GenerationOptions(max_new_tokens=3))
    assert len(model.contexts[0].cache) == 1 + 2


def test_seconds_are_counted_by_phase(toy):
    result = generator(toy()).generate([[5]], GenerationOptions(max_new_tokens=5))[0]
    assert result.prefill_seconds > 0
    assert result.tokens_per_second == pytest.approx(4 / result.decode_seconds)
    assert generator(toy()).generate([[5]], GenerationOptions(max_new_tokens=1))[0].tokens_per_second == 0


def test_no_prompts_give_no_results(toy):
    model = toy()
    assert generator(model).generate([], GenerationOptions()) == []
    assert not model.contexts


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([[1], []], "prompt 1 is empty"),
        ([[1] * 65], "prompt 0 has 65 tokens; the model's context has 64"),
        ([[1, VOCAB]], f"prompt 0 has token id {VOCAB}; ids of this model are 0 to {VOCAB - 1}"),
        ([[-1]], "token id -1"),
        ([["a"]], "prompt 0 should be a list of token ids"),
        ([7], "prompt 0 should be a list of token ids"),
    ],
)
def test_prompt_that_cannot_be_read_is_refused_before_a_step(toy, prompts, message):
    model = toy()
    with pytest.raises(InputError, match=message):
        generator(model, max_context=64).events(prompts, GenerationOptions())
    assert not model.contexts


@pytest.mark.parametrize("option", [{"max_new_tokens": 0}, {"max_new_tokens": 1.5}, {"stop": "x"}, {"stop": ("",)}])
def test_option_that_cannot_be_used_is_named(option):
    with pytest.raises(InputError, match=next(iter(option))):
        GenerationOptions(**option)


def test_stop_strings_without_tokenizer_are_refused(toy):
    with pytest.raises(InputError, match="tokenizer"):
        generator(toy(), tokenizer=None).stream([5], GenerationOptions(stop=("x",)))
