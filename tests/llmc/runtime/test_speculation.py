"""Generation with prompt lookup: the same texts, fewer steps where they repeat themselves, no drafts where they do not pay."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmc
from llmc.errors import InputError
from llmc.runtime import generate
from llmc.runtime.chat import Chat, Turn
from llmc.runtime.generate import Generator
from llmc.runtime.generation import GenerationOptions
from llmc.runtime.sampling import SamplingOptions
from llmc.runtime.tokenizer import Tokenizer
from tests.llmc.runtime.conftest import ToyExecutable

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"
TOKENIZER = Tokenizer(MODEL)
REPEATING = "def a(self):\n    return self.a\n\n\ndef b(self):\n    return self.b\n\n\ndef c(self):\n    return"
PROMPTS = [REPEATING, "import os\nimport sys\n", "x = [1, 2, 3, 1, 2, 3, 1, 2"]
SAMPLED = {"greedy": SamplingOptions(), "sampled": SamplingOptions(0.8, 20, 0.95, 7)}


class Clock:
    """Time that passes by steps, each as long as `cost` says of its rows."""

    def __init__(self, monkeypatch, cost):
        self.now, self.cost = 0.0, cost
        self.steps: list[int] = []
        monkeypatch.setattr(generate, "perf_counter", lambda: self.now)
        for name in ("step_rows", "step_largest"):
            monkeypatch.setattr(generate, name, self.timed(getattr(generate, name)))

    def timed(self, step):
        def run(context, batch, output):
            self.steps.append(batch.tokens)
            self.now += self.cost(batch.tokens)
            return step(context, batch, output)

        return run


@pytest.fixture
def free(monkeypatch):
    """All steps take the same time, so that whatever can be drafted is."""
    return Clock(monkeypatch, lambda rows: 1.0)


@pytest.fixture(scope="module", params=["cpu", "eager"])
def model(request):
    return llmc.compile(MODEL, recipe="int8", backend=request.param)


@pytest.fixture(scope="module")
def compiled():
    return llmc.compile(MODEL, backend="cpu")


def toy_generator(toy, tokenizer=None, max_context=4096):
    return Generator(toy.lease, toy.vocab_size, max_context, tokenizer, toy.row_exact, "toy")


def facts(results):
    return [(result.tokens, result.text, result.finish_reason) for result in results]


@pytest.mark.parametrize("sampling", SAMPLED.values(), ids=SAMPLED)
@pytest.mark.parametrize("stop", [(), ("self", "\n\n\n")])
def test_texts_are_the_same_with_and_without(model, free, sampling, stop):
    prompts = [model.tokenizer.encode(prompt) for prompt in (*PROMPTS, PROMPTS[0])]
    plain = GenerationOptions(60, sampling, frozenset(model.info.eos_ids), stop)
    expected = model.generator.generate(prompts, plain)
    without, free.steps = len(free.steps), []
    found = model.generator.generate(prompts, replace(plain, prompt_lookup_num_tokens=8))
    assert facts(found) == facts(expected)
    assert sum(result.accepted_tokens for result in found) > 0 and len(free.steps) < without
    assert all(result.drafted_tokens == 0 for result in expected)


def test_text_that_repeats_itself_takes_few_steps(compiled, free):
    ids = compiled.tokenizer.encode("a = 1\n" * 20)
    plain = compiled.generator.generate([ids], GenerationOptions(100))[0]
    without, free.steps = len(free.steps), []
    found = compiled.generator.generate([ids], GenerationOptions(100, prompt_lookup_num_tokens=10))[0]
    assert found.tokens == plain.tokens
    assert found.accepted_tokens > 0.8 * found.drafted_tokens > 0
    assert len(free.steps) == without - found.accepted_tokens < without / 4


def test_text_without_repetition_turns_drafts_off(toy, monkeypatch):
    Clock(monkeypatch, lambda rows: 1 + 0.25 * rows)
    hashed = toy(vocab_size=23)
    options = GenerationOptions(600, SamplingOptions(temperature=3.0, seed=1), prompt_lookup_num_tokens=10)
    [found] = toy_generator(hashed).generate([[1, 2, 1, 3, 1]], options)
    [plain] = toy_generator(hashed).generate([[1, 2, 1, 3, 1]], replace(options, prompt_lookup_num_tokens=0))
    assert found.tokens == plain.tokens
    assert 0 < found.drafted_tokens < 100
    assert found.decode_seconds < 1.1 * plain.decode_seconds


def test_steps_that_cost_by_the_row_turn_drafts_off_where_all_guesses_are_right(toy, monkeypatch):
    Clock(monkeypatch, lambda rows: rows**1.2)
    cycle = toy(forced={5: 6, 6: 7, 7: 5})
    [found] = toy_generator(cycle).generate([[5, 6, 7, 5]], GenerationOptions(300, prompt_lookup_num_tokens=10))
    assert found.drafted_tokens < 60


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_text_does_not_depend_on_what_steps_take(data):
    """Whatever the clock says: drafts of any lengths in any company, ended by length, eos and a full context."""
    times = data.draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=12))
    prompts = data.draw(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=40), min_size=1, max_size=4))
    sampling = SamplingOptions(data.draw(st.sampled_from([0.0, 0.4])), seed=data.draw(st.integers(0, 5)))
    ends = frozenset(data.draw(st.sets(st.integers(0, 7), max_size=1)))
    forced = data.draw(st.dictionaries(st.integers(0, 7), st.integers(0, 7), max_size=6))
    model = ToyExecutable(vocab_size=8, forced=forced)
    plain = GenerationOptions(data.draw(st.integers(1, 50)), sampling, ends)
    with pytest.MonkeyPatch.context() as patch:
        Clock(patch, lambda rows: times[rows % len(times)])
        found = toy_generator(model, max_context=64).generate(prompts, replace(plain, prompt_lookup_num_tokens=6))
    assert facts(found) == facts(toy_generator(model, max_context=64).generate(prompts, plain))


@pytest.mark.parametrize("ends", ["eos", "stop", "length", "context"])
def test_text_that_ends_inside_a_draft_ends_there(toy, free, ends):
    ids = TOKENIZER.encode(" one two three four five")
    model = toy(forced=dict(zip([5, *ids[:-1]], ids, strict=True)))
    prompt = [5, *ids, 9, 9, 5]
    options = GenerationOptions(
        max_new_tokens=4 if ends == "length" else 40,
        eos_ids=frozenset({ids[3]} if ends == "eos" else ()),
        stop=(" three",) if ends == "stop" else (),
    )
    contexts = {"max_context": len(prompt) + 3} if ends == "context" else {}
    with_drafts = replace(options, prompt_lookup_num_tokens=10)
    [found] = toy_generator(model, TOKENIZER, **contexts).generate([prompt], with_drafts)
    [plain] = toy_generator(model, TOKENIZER, **contexts).generate([prompt], options)
    assert facts([found]) == facts([plain]) and found.finish_reason == {"context": "length"}.get(ends, ends)
    assert found.accepted_tokens > 0


def test_each_token_is_an_event_and_only_the_last_ends_the_text(toy, free):
    cycle = toy(forced={5: 6, 6: 7, 7: 5})
    events = list(toy_generator(cycle).events([[5, 6, 7, 5]], GenerationOptions(20, prompt_lookup_num_tokens=5)))
    assert [event.token for event in events] == [6, 7, 5] * 6 + [6, 7]
    assert [event.finish_reason for event in events] == [None] * 19 + ["length"]
    assert events[-1].accepted_tokens == events[-1].drafted_tokens == 20 - len(free.steps)


def test_drafts_of_many_prompts_fit_one_step(toy, free):
    cycle = toy(vocab_size=8, forced={5: 6, 6: 7, 7: 5})
    results = toy_generator(cycle).generate([[5, 6, 7, 5]] * 200, GenerationOptions(12, prompt_lookup_num_tokens=10))
    assert all(result.tokens == [6, 7, 5] * 4 for result in results)
    assert max(free.steps) == 512 and sum(result.accepted_tokens for result in results) > 200


def test_conversation_is_the_same_and_its_cache_goes_on(compiled, free, tmp_path):
    replies = {}
    for most in (0, 6):
        with Chat(compiled) as chat:
            turns = []
            for text in ("x = 1\nx = 1\nx = 1\n", "y = 2\n" * 6, "x = 1\nx = 1\n"):
                turns.append(Turn())
                list(chat.say(text, GenerationOptions(24, prompt_lookup_num_tokens=most), turns[-1]))
            replies[most] = turns
    assert [turn.text for turn in replies[0]] == [turn.text for turn in replies[6]]
    assert [turn.reused_tokens for turn in replies[0]] == [turn.reused_tokens for turn in replies[6]]
    assert sum(turn.accepted_tokens for turn in replies[6]) > 0


@pytest.mark.parametrize("sampling", SAMPLED.values(), ids=SAMPLED)
def test_tokens_before_logits_that_are_no_numbers_are_given_with_and_without(toy, free, sampling):
    """The prompt repeats 1 2 3 4, which the model goes on with; after the second 4 it has no numbers."""
    taken = []
    for most in (0, 6):
        model, found = toy(forced={1: 2, 2: 3, 3: 4, 4: 1}), []
        logits = model.logits
        model.logits = lambda ids, logits=logits: logits(ids) * (math.nan if len(ids) >= 16 else 1)
        prompt = [1, 2, 3, 4, 1, 2, 3, 4, 1]
        with pytest.raises(InputError, match="NaN or"):
            for event in toy_generator(model).events([prompt], GenerationOptions(40, sampling, prompt_lookup_num_tokens=most)):
                found.append(event.token)
        taken.append(found)
    assert taken[0] == taken[1] == [2, 3, 4, 1, 2, 3, 4]


def test_backend_whose_rows_depend_on_their_company_is_refused(toy):
    inexact = toy()
    inexact.row_exact = False
    options = GenerationOptions(4, prompt_lookup_num_tokens=2)
    with pytest.raises(InputError, match="backend 'toy' is not row_exact"):
        toy_generator(inexact).events([[1]], options)
    assert toy_generator(inexact).generate([[1]], replace(options, prompt_lookup_num_tokens=0))


def test_saved_model_takes_the_option(compiled, tmp_path):
    compiled.save(tmp_path / "saved")
    loaded = llmc.load(tmp_path / "saved")
    assert loaded.generate(REPEATING, prompt_lookup_num_tokens=4).text == compiled.generate(REPEATING).text


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", None])
def test_option_that_cannot_be_used_is_named(value):
    with pytest.raises(InputError, match="prompt_lookup_num_tokens"):
        GenerationOptions(prompt_lookup_num_tokens=value)
