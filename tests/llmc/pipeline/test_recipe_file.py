"""Recipes in YAML files."""

import re

import pytest

from llmc.conformance.models import BUNDLED, captured
from llmc.errors import InputError, LLMCError
from llmc.pipeline.recipe import recipe_name, resolve
from llmc.plugins.registry import default


def written(tmp_path, text, name="my.yaml"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def keys(pipeline):
    return [str(step.item) for step in pipeline]


@pytest.mark.parametrize("text", [
    "passes:\n- canonicalize\n- quantize: {bits: 4, group_size: 64}\n",
    "passes: [canonicalize, {name: quantize, bits: 4, group_size: 64}]\ndescription: mine\n",
])  # fmt: skip
@pytest.mark.parametrize("name", ["my.yaml", "my.YML"])
def test_passes_of_a_file_are_those_of_the_list_it_stands_for(text, name, tmp_path):
    path = written(tmp_path, text, name)
    expected = keys(resolve(["canonicalize", {"name": "quantize", "bits": 4, "group_size": 64}]))
    assert keys(resolve(path)) == keys(resolve(str(path))) == expected


def test_file_starts_from_another_recipe_and_a_pass_may_come_twice(tmp_path):
    path = written(tmp_path, "extends: int8\npasses:\n- quantize: {bits: 4}\n- canonicalize:\n")
    assert keys(resolve(path)) == [*keys(resolve("int8")), "quantize(bits=4)", "canonicalize"]


def test_models_say_the_name_of_the_file_and_not_where_it_was(tmp_path):
    assert recipe_name(tmp_path / "my.yaml") == recipe_name(f"{tmp_path}/my.yaml") == "my.yaml"
    assert (recipe_name(None), recipe_name("int4"), recipe_name([])) == ("fuse", "int4", "custom")


BAD = {
    "unknown key": ("pases: []\n", "there is no key 'pases'; did you mean 'passes'? known: description, extends, passes"),
    "unknown pass": ("passes: [quantise]\n", "no pass is named 'quantise'; did you mean 'quantize' or 'quantize-kv'?"),
    "unknown option": ("passes: [{quantize: {bit: 4}}]\n", "there is no option 'bit', did you mean 'bits'?"),
    "bad option": ("passes: [{quantize: {bits: 5}}]\n", "option 'bits'"),
    "unknown recipe": ("extends: int5\n", "no recipe is named 'int5'; did you mean 'int8' or 'int4'?"),
    "nothing": ("description: mine\n", "the recipe has no passes"),
    "empty": ("", "a recipe is a mapping with the keys"),
    "list": ("- quantize\n", "a recipe is a mapping with the keys"),
    "number": ("passes: [3]\n", "'passes.0'"),
    "passes as text": ("passes: quantize\n", "'passes': input should be a valid list"),
    "two passes in one": ("passes: [{quantize: {}, canonicalize: {}}]\n", "a pass is written as"),
    "options as text": ("passes: [{quantize: bits}]\n", "a pass is written as"),
    "key twice": ("passes: []\npasses: [quantize]\n", "line 2: not valid YAML: the key 'passes' is there twice"),
    "list as a key": ("? [a]\n: 1\n", "a key must be a name"),
    "alias": ("extends: &a fuse\ndescription: *a\n", "line 2: not valid YAML: aliases are not allowed"),
    "object": (
        "passes: !!python/object/apply:os.system ['true']\n",
        "line 1: not valid YAML: could not determine a constructor",
    ),
    "not closed": ("passes: [quantize\n", "line 2: not valid YAML"),
    "two documents": ("passes: [quantize]\n---\npasses: []\n", "line 2: not valid YAML: but found another document"),
    "nested": ("passes: " + "[" * 20000 + "\n", "not valid YAML"),
    "not text": (b"passes: [\xff\xfe]\n", "not valid YAML"),
    "huge": ("# " + "a" * (1 << 16) + "\npasses: [quantize]\n", "at most 65536 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_file_that_is_no_recipe_is_refused_in_a_line(case, tmp_path):
    text, message = BAD[case]
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        resolve(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_file_that_is_not_there_is_told(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(InputError, match="there is no such recipe file"):
            resolve(path)


def test_example_gives_the_head_eight_bits_and_all_else_four():
    pipeline = resolve(BUNDLED.parents[1] / "int4_head_int8.yaml")
    program = pipeline.run(captured("bundled").program, default()).program
    formats = {name: str(weight.format) for name, weight in program.weights.items() if len(weight.shape) == 2}
    assert formats.pop("lm_head.weight") == "int8" and set(formats.values()) == {"int4g64z"}


@pytest.mark.parametrize("name", [entry.name for entry in default().entries("recipes")])
def test_every_registered_recipe_resolves(name):
    try:
        assert resolve(name) is not None
    except LLMCError as error:
        pytest.fail(str(error))
