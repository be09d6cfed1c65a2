"""No file of the compiler names a model family: what is special about one comes from its own code and config."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FAMILIES = re.compile(
    r"\b(llama(?!\.cpp|2\.c)|mistral|mixtral|qwen\d?|gemma\d?|gpt[-_]?\d|gptj|gpt[-_]?neox?|falcon|bloom|opt-\d|phi-?\d"
    r"|stablelm|olmo\d?|cohere|granite|bert|roberta|mpnet|nanogpt)\b",
    re.IGNORECASE,
)


def test_no_source_file_names_a_model_family():
    hits = []
    for folder in ("llmc", "passes", "backends"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".h", ".cpp") and path.is_file():
                found = {match.group().lower() for match in FAMILIES.finditer(path.read_text())}
                hits += [f"{path.relative_to(ROOT)}: {sorted(found)}"] if found else []
    assert not hits, hits
