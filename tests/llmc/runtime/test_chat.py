"""Conversations: the template's text, what the cache keeps between turns, and what ends a reply."""

import json
import shutil
from pathlib import Path

import pytest

import llmc
from llmc.errors import InputError
from llmc.runtime.chat import Chat, Turn
from llmc.runtime.chat_template import ChatTemplate, plain
from llmc.runtime.generation import GenerationOptions

MODEL = Path(__file__).resolve().parents[3] / "examples" / "tiny_lm" / "model"
TEMPLATE = (
    "{% for message in messages %}{{ eos_token }}# {{ message['role'] }}\n{{ message.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ eos_token }}# assistant\n{% endif %}"
)
SHORT = GenerationOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The bundled model with a chat template, saved and loaded, so that the template went through the artifact."""
    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(MODEL, folder / "m")
    (folder / "m" / "chat_template.jinja").write_text(TEMPLATE)
    llmc.compile(folder / "m", backend="cpu").save(folder / "saved")
    return llmc.load(folder / "saved")


def say(chat, text, options=SHORT):
    turn = Turn()
    pieces = list(chat.say(text, options, turn))
    assert "".join(pieces) == turn.text
    return turn


def test_reply_is_that_of_the_whole_conversation_read_anew(model):
    with Chat(model, system="Be brief.") as chat:
        for text in ("def add(a, b):", "import os", "class A:"):
            turn = say(chat, text)
            prompt = chat.template.render(chat.messages[:-1])
            ids = model.tokenizer.encode(prompt, rendered=True)
            assert turn.prompt_tokens == len(ids) and prompt.count("<|endoftext|>") == len(chat.messages)
            assert turn.text == model.generate(ids, max_new_tokens=6).text
    assert [message["role"] for message in chat.messages] == ["system", *["user", "assistant"] * 3]


def test_turn_reads_only_what_is_new(model):
    with Chat(model) as chat:
        first, second = say(chat, "def add(a, b):"), say(chat, "import os")
        assert first.reused_tokens == 0 and second.reused_tokens >= first.prompt_tokens
        chat.reset()
        assert chat.messages == [] and 0 < say(chat, "def add(a, b):").reused_tokens == first.prompt_tokens - 1


def test_reply_that_is_closed_counts_as_far_as_it_came(model):
    with Chat(model) as chat:
        turn = Turn()
        pieces = chat.say("def add(a, b):", SHORT, turn)
        shown = next(pieces) + next(pieces)
        pieces.close()
        assert chat.messages[-1] == {"role": "assistant", "content": shown} and turn.finish_reason is None
        assert say(chat, "import os").reused_tokens > turn.prompt_tokens


def test_step_that_fails_ends_the_reply_and_neither_the_conversation_nor_the_model(model, monkeypatch):
    def fail(*batch):
        raise RuntimeError("out of coffee")

    with Chat(model) as chat:
        say(chat, "def add(a, b):")
        for name in ("step", "step_largest"):
            monkeypatch.setattr(chat._context, name, fail)
        with pytest.raises(RuntimeError, match="coffee"):
            say(chat, "import os")
        assert say(chat, "class A:").reused_tokens == 0
    assert model.generate("import os", max_new_tokens=2).new_tokens == 2


def test_conversation_beyond_the_context_is_refused_and_can_go_on(model):
    with Chat(model) as chat:
        first = say(chat, "def add(a, b):")
        before = list(chat.messages)
        with pytest.raises(InputError, match=r"conversation has \d+ tokens now; the model's context has 512"):
            chat.say("x = 1\n" * 400, SHORT, Turn())
        assert chat.messages == before and say(chat, "import os").reused_tokens >= first.prompt_tokens


def test_cache_grows_when_the_conversation_does(model, monkeypatch):
    monkeypatch.setattr("llmc.runtime.chat.FIRST_CACHE", 1)
    with Chat(model) as chat:
        for text in ("def add(a, b):", "x = 1\n" * 30, "class A:"):
            turn = say(chat, text)
            assert turn.text == model.generate(
                model.tokenizer.encode(chat.template.render(chat.messages[:-1]), rendered=True), max_new_tokens=6
            ).text


def test_model_without_template_takes_plain_turns_and_stops_before_the_user_s(model):
    bare = llmc.compile(MODEL, backend="eager")
    with Chat(bare) as chat:
        assert chat.template is None
        turn = say(chat, "def add(a, b):", GenerationOptions(max_new_tokens=24))
        assert "User:" not in turn.text
    assert plain(chat.messages[:1]) == "User: def add(a, b):\nAssistant:"


DOUBLED = "{% set n = namespace(a='aaaa', l=['aaaa']) %}{% for i in range(60) %}STEP{% endfor %}{{ n.a }}"
MALICIOUS = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "repetition": "{{ 'a' * 1000000000 }}",
    "repetition of a list": "{{ [1] * 1000000000 }}",
    "powers": "{{ 9 ** 9 ** 9 }}",
    "endless range": "{% for i in range(1000000000) %}{{ i }}{% endfor %}",
    "files": "{% include '/etc/passwd' %}",
    "mutation": "{{ messages.append(1) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "its own refusal": "{{ raise_exception('roles must alternate') }}",
    "no such name": "{{ nothing.at.all }}",
    **{
        f"doubling by {name}": DOUBLED.replace("STEP", step)
        for name, step in {
            "~": "{% set n.a = n.a ~ n.a %}",
            "+": "{% set n.a = n.a + n.a %}",
            "+ of lists": "{% set n.l = n.l + n.l %}",
            "%": "{% set n.a = '%s%s' % (n.a, n.a) %}",
            "format": "{% set n.a = '{0}{0}'.format(n.a) %}",
            "the format filter": "{% set n.a = '%s%s' | format(n.a, n.a) %}",
            "a block": "{% set b %}{{ n.a }}{{ n.a }}{% endset %}{% set n.a = b %}",
            "a macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set n.a = f(n.a) %}",
            "join": "{% set n.a = [n.a, n.a] | join %}",
            "the join of a text": "{% set n.a = ''.join([n.a, n.a]) %}",
            "replace": "{% set n.a = n.a | replace('a', 'aa') %}",
            "the replace of a text": "{% set n.a = n.a.replace('a', 'aa') %}",
            "nesting": "{% set n.a = [n.a, n.a] %}",
            "nesting of texts of it": "{% set n.a = [n.a, n.a] %}{% set x = n.a | string %}",
        }.items()
    },
    "a wide field": "{{ '%1000000000d' % 1 }}",
    "a wide field of a format": "{{ '{:1000000000}'.format(1) }}",
    "a wide field by a number": "{{ '%*d' % (1000000000, 1) }}",
    "padding": "{{ 'a'.ljust(1000000000) }}",
    "a wide filter": "{{ 'a' | center(1000000000) }}",
    "a deep indent": "{{ 'a' | indent(1000000000, first=true) }}",
    "a wide batch": "{{ [1] | batch(1000000000, 'x') | list }}",
    "large text": "{% for i in range(99999) %}{{ 'aaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
}


@pytest.mark.parametrize("case", MALICIOUS)
def test_template_is_not_trusted(case):
    with pytest.raises(InputError, match="chat template"):
        ChatTemplate(MALICIOUS[case], {}).render([{"role": "user", "content": "x"}])


def test_what_templates_do_with_texts_is_allowed_where_it_is_small():
    source = (
        "{{ 'a' ~ 1 ~ none }} {{ 'b' + 'c' }} {{ '%s-%d' % ('d', 2) }} {{ '{}!'.format('e') }} {{ ['f', 'g'] | join(', ') }}"
        " {{ ', '.join(['h', 'i']) }} {{ 'j' | replace('j', 'k') }} {{ 'l'.replace('l', 'm') }} {{ [1] + [2] }} {{ 7 % 4 }}"
        " {{ messages | map(attribute='role') | join('/') }} {{ messages | join('-', attribute='content') }}"
        " {{ 'n' | center(3) }} {{ 2 * 3 }} {{ 'o' * 2 }}"
        " {{ {'q': 'r'} | tojson(indent=1) | length }}"
    )
    found = ChatTemplate(source, {}).render([{"role": "user", "content": "x"}] * 2)
    assert found == "a1None bc d-2 e! f, g h, i k m [1, 2] 3 user/user x-x  n  6 oo 13"


@pytest.mark.parametrize("source", ["{% for %}", "{{", "{% generation %}"])
def test_malformed_template_is_refused(source):
    with pytest.raises(InputError, match="malformed"):
        ChatTemplate(source, {})


def test_template_has_what_the_library_s_templates_use():
    source = (
        "{%- for m in messages %}{% if loop.index0 > 0 %}{% break %}{% endif %}{% generation %}{{ m | tojson }}"
        "{% endgeneration %}{% endfor %}{{ strftime_now('%Y')[:2] }}{{ bos_token }}{{ tools is none }}"
    )
    found = ChatTemplate(source, {"bos_token": "<s>"}).render([{"role": "user", "content": "<é>"}] * 2)
    assert found == json.dumps({"role": "user", "content": "<é>"}, ensure_ascii=False) + "20<s>True"
