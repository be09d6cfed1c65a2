"""The compiler and the cache of what it made."""

import ctypes
import re
import subprocess
import sys

import pytest

from llmc.backends.cpu import store, targets, toolchain
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.build import LIBRARY, OBJECT, Code, build
from llmc.backends.cpu.targets import AVX2, PORTABLE, TARGETS, best, named
from llmc.errors import ToolchainError, UnsupportedError
from llmc.runtime import processor
from llmc.runtime.progress import listening
from tests.backends.cpu.programs import program, table

ANSWER = '#pragma GCC visibility push(default)\nextern "C" int answer() {{ return {}; }}\n'
SOURCE = ANSWER.format(42)
HEADERS = {
    "double.h": "template <int N> int twice();\n",
    "double_impl.h": '#include "double.h"\ntemplate <int N> int twice() { return 2 * N; }\n',
    "unused.h": "",
}
CALLING = f'#include "double.h"\n{ANSWER.format("twice<20>() + twice<1>()")}'
KERNELS = {f"twice_{n}.cpp": f'#include "double_impl.h"\ntemplate decltype(twice<{n}>) twice<{n}>;\n' for n in (20, 1)}


def code(model=SOURCE, kernels=None, headers=None, target=PORTABLE):
    return Code(model, kernels or {}, HEADERS if headers is None else headers, target)


def built(model=SOURCE, **parts):
    return build(code(model, **parts))


def objects(cache):
    return {path.parent.name: path.stat().st_mtime_ns for path in (cache / "cpu" / "kernels").rglob(OBJECT)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def answer(path):
    """Of the library, asked in a process of its own: a damaged one kills it."""
    code = f"import ctypes; print(ctypes.CDLL({str(path)!r}).answer())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def script(tmp_path, text):
    path = tmp_path / "compiler"
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_library_is_built_once():
    first = built(SOURCE)
    stamp = first.stat().st_mtime_ns
    assert built(SOURCE) == first and first.stat().st_mtime_ns == stamp and answer(first) == "42"


def test_machines_that_share_a_cache_have_results_of_their_own(monkeypatch):
    first = code().digest("kernel")
    monkeypatch.setattr("platform.machine", lambda: "another")
    assert code().digest("kernel") != first


@pytest.mark.parametrize("damage", ["deleted", "empty", "cut", "changed", "seal"])
def test_damaged_library_is_built_again(damage, cache):
    path = built(SOURCE)
    data = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "seal":
        path.with_name(store.SEAL).unlink()
    else:
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "changed": data[:-9] + b"x" * 9}[damage])
    for _ in range(2):
        assert answer(built(SOURCE)) == "42"
    assert [p.name for p in (cache / "cpu").iterdir() if p.is_dir()] == [path.parent.name]


def test_library_in_use_survives_that_its_file_is_replaced():
    path = built(SOURCE)
    library = ctypes.CDLL(str(path))
    path.with_name(store.SEAL).write_text("")
    built(SOURCE)
    assert library.answer() == 42


def test_two_processes_at_once_both_have_the_library(cache):
    code = f"from tests.backends.cpu.test_toolchain import built; print(built({SOURCE!r}))"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in both}
    assert len(paths) == 1 and answer(paths.pop()) == "42"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "was not found"),
        ("\x00\x01", "does not run"),
        ("#!/bin/sh\necho version\n", "did not write"),
        ("#!/bin/sh\n[ $1 = --version ] || { echo 'omp.h: no such file' >&2; exit 3; }\n", "status 3.*omp.h.*needs OpenMP"),
    ],
    ids=["missing", "broken", "idle", "no OpenMP"],
)
def test_compiler_that_cannot_be_used_is_a_clear_error(text, message, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("CXX", "no-such-compiler" if text is None else script(tmp_path, text))
    with pytest.raises(ToolchainError) as raised:
        built(SOURCE)
    assert re.search(message, str(raised.value), re.DOTALL)
    assert not cache.exists() or not [p for p in (cache / "cpu").iterdir() if p.is_dir()]


def test_compiler_may_come_with_arguments(monkeypatch):
    monkeypatch.setenv("CXX", "env g++ -DNUMBER=42")
    assert answer(built(ANSWER.format("NUMBER"))) == "42"


def test_output_of_a_failing_compiler_is_shown():
    with pytest.raises(ToolchainError, match="no_such_name"):
        built("int x = no_such_name;")


def test_model_is_linked_with_its_kernels_and_each_is_compiled_once(cache):
    heard = []
    with listening(lambda *report: heard.append(report)):
        assert answer(built(CALLING, kernels=KERNELS)) == "42"
    first = objects(cache)
    assert heard == [("compiling kernels", 1, 2), ("compiling kernels", 2, 2)] and len(first) == 2
    assert answer(built(CALLING + "// changed", kernels=KERNELS)) == "42"
    assert objects(cache) == first and len(heard) == 2


def test_kernel_is_compiled_again_when_what_it_includes_changes_or_for_another_target(cache):
    built(CALLING, kernels=KERNELS)
    built(CALLING, kernels=KERNELS, headers={**HEADERS, "unused.h": "// another"})
    assert len(objects(cache)) == 2
    path = built(CALLING, kernels=KERNELS, headers={**HEADERS, "double_impl.h": HEADERS["double_impl.h"].replace("2 *", "3 *")})
    assert answer(path) == "63" and len(objects(cache)) == 4
    built(CALLING, kernels=KERNELS, target=AVX2)
    assert len(objects(cache)) == 6


SYSTEM_HEADER = '#include "system.h"\n'
WITH_SYSTEM = {**HEADERS, "system.h": "#ifndef SYSTEM\n#define SYSTEM\n#include <cmath>\n#endif\n"}


def built_with_system(extra="", headers=WITH_SYSTEM):
    return built(
        f"{SYSTEM_HEADER}{CALLING}{extra}", kernels={n: SYSTEM_HEADER + t for n, t in KERNELS.items()}, headers=headers
    )


def precompiled(cache):
    return sorted((cache / "cpu").rglob("*.gch"))


def test_headers_of_the_system_are_precompiled_once_and_change_no_byte(cache, monkeypatch, tmp_path):
    first = built_with_system()
    (kept,) = precompiled(cache)
    stamp = kept.stat().st_mtime_ns
    assert answer(built_with_system("// changed")) == answer(first) == "42"
    assert precompiled(cache) == [kept] and kept.stat().st_mtime_ns == stamp
    made = {path.parent.name: path.read_bytes() for path in (cache / "cpu").rglob("*.[so]*") if path.name in (OBJECT, LIBRARY)}
    monkeypatch.setenv(store.CACHE_VARIABLE, str(tmp_path / "another"))
    monkeypatch.setattr(toolchain, "precompiles", lambda words: False)
    built_with_system(), built_with_system("// changed")
    again = (tmp_path / "another" / "cpu").rglob("*.[so]*")
    assert {path.parent.name: path.read_bytes() for path in again if path.name in (OBJECT, LIBRARY)} == made
    assert not precompiled(tmp_path / "another")


def test_headers_of_the_system_are_precompiled_anew_when_they_change_or_are_damaged(cache):
    built_with_system()
    (kept,) = precompiled(cache)
    kept.write_bytes(kept.read_bytes()[:5000])
    assert answer(built_with_system("// changed")) == "42"
    assert precompiled(cache) == [kept] and kept.stat().st_size > 5000
    built_with_system(headers={**WITH_SYSTEM, "system.h": WITH_SYSTEM["system.h"] + "// changed\n"})
    assert len(precompiled(cache)) == 2


@pytest.mark.parametrize("failing", ["making", "reading"])
def test_compiler_that_fails_at_what_is_precompiled_compiles_without_and_says_so(failing, cache, tmp_path, monkeypatch):
    condition = {"making": "[ $made = system.h.gch ]", "reading": "[ -e system.h.gch ]"}[failing]
    text = f'#!/bin/sh\nfor made in x "$@"; do {condition} && [ $1 != -x ] && exit 1; done\nexec g++ "$@"\n'
    monkeypatch.setenv("CXX", script(tmp_path, text))
    with pytest.warns(UserWarning, match="compiling takes longer"):
        made = built_with_system()
    assert answer(made) == "42" and bool(precompiled(cache)) == (failing == "reading")


def test_failing_text_is_told_where_headers_are_precompiled(cache):
    with pytest.raises(ToolchainError, match=r"model\.cpp:\d+:.*no_such_name"):
        built_with_system("int x = no_such_name;")


@pytest.mark.parametrize("damage", ["deleted", "cut"])
def test_damaged_kernel_object_is_compiled_again(damage, cache):
    built(CALLING, kernels=KERNELS)
    for path in (cache / "cpu" / "kernels").rglob(OBJECT):
        path.unlink() if damage == "deleted" else path.write_bytes(path.read_bytes()[:100])
    assert answer(built(CALLING + "// changed", kernels=KERNELS)) == "42"


def test_failing_kernel_leaves_nothing_behind(cache):
    with pytest.raises(ToolchainError, match="nonsense"):
        built(CALLING, kernels={**KERNELS, "bad.cpp": "nonsense;"})
    assert not [path for path in (cache / "cpu").iterdir() if path.name.startswith("building")]
    assert not list((cache / "cpu").glob(f"*/{LIBRARY}"))


def test_one_command_builds_what_is_written_down(tmp_path):
    made = code(CALLING, kernels=KERNELS)
    for name, text in made.texts.items():
        (tmp_path / name).write_text(text)
    assert "unused.h" not in made.texts
    subprocess.run(made.command, cwd=tmp_path, check=True)
    assert answer(tmp_path / LIBRARY) == "42"


def test_target_that_no_one_knows_is_refused_with_a_list():
    with pytest.raises(UnsupportedError, match=r"avx1024.*avx512, .*avx2, .*portable"):
        named("avx1024")


def test_every_machine_has_a_target_and_portable_runs_on_all():
    assert not best().lacking and not TARGETS["portable"].lacking


def test_code_for_another_processor_compiles_but_does_not_run(monkeypatch):
    made = program(lambda e, ids: table(e, ids))
    backend = CpuBackend().for_target("avx2") if "avx2" in CpuBackend().targets() else pytest.skip("no x86 machine")
    monkeypatch.setattr(processor, "extensions", lambda: frozenset({"avx2"}))
    assert targets.best().name == "portable" and CpuBackend().targets()[:2] == ("portable", "avx512")
    assert "no fma, f16c" in backend.availability().reason
    executable = backend.lower(made)
    assert "AVX2" in executable.sources()["model.cpp"]
    with pytest.raises(UnsupportedError, match=r"'avx2' does not run.*no fma, f16c; compile for 'portable'"):
        executable.context(1)
