"""No file of the compiler names a model family: what is special about one comes from its own code and config."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAMILIES = re.compile(
    r"llama(?!\.cpp|2\.c)|mistral|mixtral|qwen|gemma|gpt[-_]?\d|gpt[-_]?j|gpt[-_]?neo|falcon|bloom|stablelm|olmo|cohere(?!n)"
    r"|granite|roberta|mpnet|nanogpt|deepseek|mamba|starcoder|(?<![a-z])bert|(?<![a-z])opt-\d|(?<![a-z])phi[-_]?\d"
    r"|(?<![a-z])t5(?![a-z\d])|(bert|phi|opt|t5)(model|for|config)(?![a-z]*[^\W\da-z])",
    re.IGNORECASE,
)


CAUGHT = (
    "LlamaForCausalLM", "llama_rope", "modeling_llama", "qwen2_moe", "is_gpt2", "GPT2LMHeadModel", "BloomConfig", "phi3",
    "OPTForCausalLM", "gpt-neox", "BertModel", "opt-125m", "gemma2",
)  # fmt: skip
OTHERS = ["faster than llama.cpp", "like llama2.c", "coherent", "optional", "the option -O3", "alphabet"]


@pytest.mark.parametrize("name", CAUGHT)
def test_names_of_families_are_caught_however_they_are_written(name):
    assert FAMILIES.search(f"if {name}:")


@pytest.mark.parametrize("text", OTHERS)
def test_other_words_are_not(text):
    assert not FAMILIES.search(text)


def test_no_source_file_names_a_model_family():
    hits = []
    for folder in ("llmc", "passes", "backends"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".h", ".cpp") and path.is_file():
                found = {match.group().lower() for match in FAMILIES.finditer(path.read_text())}
                hits += [f"{path.relative_to(ROOT)}: {sorted(found)}"] if found else []
    assert not hits, hits
