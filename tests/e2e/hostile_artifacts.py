"""Hostile inputs: saved models."""

from __future__ import annotations

from tests.e2e.hostile import (
    Case,
    artifact,
    data_of,
    deep,
    executable,
    file,
    flipped,
    halved,
    info,
    link,
    listed,
    manifest,
    model,
    rehashed,
    without,
)

MANIFEST = r"manifest\.json"
PROGRAM, PACKED, LIBRARY = "program/weights.safetensors", "executable/weights.bin", "executable/model.so"


def target(**changes):
    """What the code is said to run on, changed."""
    return manifest(lambda data: data["target"].update(changes))


ARTIFACTS = {
    "manifest that is empty": artifact(file("a/manifest.json", ""), MANIFEST),
    "manifest nested deeply": artifact(file("a/manifest.json", deep("[", "]")), MANIFEST),
    "manifest of another format": artifact(manifest(lambda d: d.update(format="gguf")), MANIFEST),
    "manifest of another version": artifact(manifest(lambda d: d.update(version=99)), f"{MANIFEST}.*99"),
    "manifest without info": artifact(manifest(lambda d: d.pop("info")), f"{MANIFEST}.*info"),
    "manifest without files": artifact(manifest(lambda d: d.pop("files")), f"{MANIFEST}.*files"),
    "manifest without records": artifact(manifest(lambda d: d.pop("records")), f"{MANIFEST}.*records"),
    "manifest with a list of files": artifact(manifest(lambda d: d.update(files=[])), f"{MANIFEST}.*files"),
    "manifest that lists nothing": artifact(manifest(lambda d: d.update(files={})), f"{MANIFEST}.*listed"),
    "record that is none": artifact(manifest(lambda d: d.update(records=[{"key": 1}])), f"{MANIFEST}.*record"),
    "vocabulary that is a text": artifact(info(vocab_size="many"), f"{MANIFEST}.*vocab_size"),
    "vocabulary of nothing": artifact(info(vocab_size=0), f"{MANIFEST}.*vocab_size"),
    "vocabulary beyond the table": artifact(info(vocab_size=1 << 40), f"{MANIFEST}.*vocab_size"),
    "context of nothing": artifact(info(max_context=-1), f"{MANIFEST}.*max_context"),
    "context that no machine holds": artifact(info(max_context=1 << 60), f"{MANIFEST}.*max_context"),
    "end of text that is a text": artifact(info(eos_ids=["a"]), f"{MANIFEST}.*eos_ids"),
    "backend that there is not": artifact(info(backend="gpu"), "'gpu'"),
    "threads that cannot be": artifact(info(threads=-4), f"{MANIFEST}.*threads"),
    "fact that there is not": artifact(info(colour="red"), f"{MANIFEST}.*colour"),
    "file above the folder": artifact(listed("../secret"), f"{MANIFEST}.*\\.\\./secret"),
    "file at an absolute path": artifact(listed("/etc/passwd"), f"{MANIFEST}.*/etc/passwd"),
    "file of Windows": artifact(listed("..\\secret"), MANIFEST),
    "file that is not there": artifact(listed("extra.bin"), r"extra\.bin"),
    "link in place of the program": artifact(link("program/program.json"), "program.json.*link"),
    "link in place of the tokenizer": artifact(link("tokenizer/tokenizer.json"), "tokenizer.json.*link"),
    "program that was changed": artifact(flipped("a/program/program.json"), r"program\.json.*changed"),
    "program that is missing": artifact(without("a/program/program.json"), r"program\.json"),
    "weights of the program that were changed": artifact(flipped(f"a/{PROGRAM}"), f"{PROGRAM}.*changed", "inspect {a} --graph"),
    "weights of the program that were cut off": artifact(halved(f"a/{PROGRAM}"), f"{PROGRAM}.*size"),
    "tokenizer that was changed": artifact(flipped("a/tokenizer/tokenizer.json"), r"tokenizer\.json.*changed"),
    "packed weights that were changed": artifact(flipped(f"a/{PACKED}"), f"{PACKED}.*changed"),
    "packed weights that were cut off": artifact(halved(f"a/{PACKED}"), f"{PACKED}.*size"),
    "packed weights that are too few": artifact(rehashed(halved(f"a/{PACKED}"), name=PACKED), f"{PACKED}|executable"),
    "packed weights that are missing": artifact(without(f"a/{PACKED}"), f"{PACKED}.*no such file"),
    "library that was changed": artifact(flipped(f"a/{LIBRARY}"), f"{LIBRARY}.*changed.*llmc rebuild"),
    "library that was cut off": artifact(halved(f"a/{LIBRARY}"), f"{LIBRARY}.*size"),
    "library that is none": artifact(rehashed(file(f"a/{LIBRARY}", "garbage"), name=LIBRARY), f"{LIBRARY}.*cannot load"),
    "library that is missing": artifact(without(f"a/{LIBRARY}"), f"{LIBRARY}.*no such file"),
    "library of another processor": artifact(target(machine="pdp11"), "pdp11.*llmc rebuild"),
    "library of another instruction set": artifact(target(needs=["quantum"]), "quantum.*llmc rebuild"),
    "target that is none": artifact(manifest(lambda d: d.update(target="avx512")), f"{MANIFEST}.*target"),
    "interface of another version": artifact(executable(abi=99), "99"),
    "blocks of another size": artifact(executable(block=7), "7"),
    "outputs that the library does not give": artifact(executable(outputs={}), "executable"),
    "sources above the folder": artifact(executable(sources=["../../secret"]), r"executable\.json.*secret"),
    "fact of the library that there is not": artifact(executable(colour="red"), r"executable\.json.*colour"),
    "recipe for an artifact": artifact(lambda folder: None, "--recipe", "generate {a} def --recipe int8"),
    "target for an artifact": artifact(lambda folder: None, "--target", "generate {a} def --target portable"),
    "rebuilt model that is not compiled": model(lambda folder: None, "m: .*not compiled", "rebuild {m}"),
    "rebuilt model that is not there": Case("rebuild ./nowhere", "nowhere: "),
    "rebuilt for a target that there is not": artifact(lambda folder: None, "avx1024", "rebuild {a} --target avx1024"),
    "rebuilt from sources that are wrong": artifact(
        data_of("a/executable/model.cpp", lambda d: d + b"\n#error out of coffee\n"), "status 1", "rebuild {a}"
    ),
    "rebuilt without its sources": artifact(without("a/executable/model.cpp"), r"model\.cpp", "rebuild {a}"),
    "rebuilt with a manifest that is garbage": artifact(file("a/manifest.json", "garbage"), MANIFEST, "rebuild {a}"),
    "verified with a text that has no tokens": artifact(lambda folder: None, "empty|text", "verify {a} --text ''"),
    "verified with weights that were changed": artifact(flipped(f"a/{PROGRAM}"), f"{PROGRAM}.*changed", "verify {a}"),
    "measured beyond the context": artifact(
        lambda folder: None, "600 together", "bench {a} --prompt-tokens 598 --new-tokens 2"
    ),
    "artifact compiled again": artifact(lambda folder: None, "compiled already", "compile {a} -o {folder}/out"),
}
