"""Steps over whole sequences that are cut into parts: the same numbers whoever computes a part, in whatever company."""

import subprocess

import numpy as np
import pytest

from llmc.backends.cpu import toolchain
from llmc.backends.cpu.backend import CpuBackend
from llmc.backends.cpu.build import KERNELS
from llmc.backends.cpu.source import CONTRACT
from llmc.backends.cpu.targets import TARGETS, best
from llmc.conformance.programs import VOCAB, build
from llmc.conformance.whole import WHOLE
from llmc.ir import ops
from llmc.runtime.contract import Batch
from tests.backends.cpu.programs import rounded

HERE = sorted({best().name, "avx2", "portable"} - {target.name for target in TARGETS.values() if target.lacking})
MIXED = (31, 6, 120, 9, 1, 76, 17, 47, 8, 26, 58, 2, 38, 130)
LENGTHS = {"many": MIXED, "short": (5, 3, 9), "one": (90,), "one-beside-many": (290, 4, 30, 8), "long": (300, 280)}


def encoder():
    """A value of each token, and of each sequence, with products that round."""
    editor = build(WHOLE["attention"]).edit()
    (hidden,) = editor.results
    editor.graph.erase_node(editor.graph.output_node())
    width = hidden.meta["type"].width
    product = editor.op(ops.linear, hidden, rounded(editor, "w", width, width), activations="int8")
    wide = editor.op(ops.gelu, product, approximate="none")
    pooled = editor.op(ops.pool, wide, how="mean")
    editor.outputs = ("first", "hidden", "pooled")
    editor.graph.output((editor.op(ops.pool, editor.input("input_ids"), how="first"), wide, pooled))
    return editor.finish()


@pytest.fixture(scope="module", params=HERE)
def executable(request):
    return CpuBackend().for_target(request.param).lower(encoder())


def ids_of(lengths):
    return [np.random.default_rng(length).integers(0, VOCAB, length) for length in lengths]


def outputs(context, sequences):
    """For each sequence its entry of each output."""
    batch = Batch.of_sequences({"input_ids": sequences})
    found = context.step(batch)
    return list(zip(found["first"], np.split(found["hidden"], batch.starts[1:-1]), found["pooled"], strict=True))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_sequence_is_the_same_alone_and_in_every_company(executable, lengths):
    sequences, single = ids_of(lengths), executable.context(1, threads=1)
    alone = [outputs(single, [ids])[0] for ids in sequences]
    assert [int(first) for first, _, _ in alone] == [int(ids[0]) for ids in sequences]
    for threads in (1, 2, 3):
        context = executable.context(1, threads)
        for _ in range(2):
            for want, got in zip(alone, outputs(context, sequences), strict=True):
                assert all(np.array_equal(*pair) for pair in zip(want, got, strict=True)), threads


def test_profile_has_the_time_of_every_part():
    made = encoder()
    stamped = CpuBackend().profiled(made, CpuBackend().lower(made))
    context = stamped.context(1, threads=2)
    outputs(context, ids_of(MIXED))
    assert context.times.shape == (2, len(stamped.spans)) and (context.times >= 0).all() and context.times.sum() > 0


PARTS = r"""
#include <cstdio>
#include <cstdlib>
#include "parts.h"
int main(int count, char** numbers) {   // threads, lengths
    const int threads = std::atoi(numbers[1]);
    std::vector<int32_t> starts{0}, run;
    for (int i = 2; i < count; i++) {
        starts.push_back(starts.back() + std::atoi(numbers[i]));
        run.resize(starts.back(), i - 2);
    }
    LlmcBatch batch{};
    batch.tokens = starts.back(), batch.runs = count - 2, batch.starts = starts.data(), batch.run = run.data();
    llmc::Parts parts(batch, threads);
    parts.rebase();
    std::printf("%d %d\n", parts.fair(threads), int(parts.tokens));
    parts.take<0, 0>(nullptr, nullptr, nullptr, [](const llmc::Step& step) {
        for (int64_t s = 0; s < step.tokens.runs; s++)
            for (int64_t t = step.tokens.starts[s]; t < step.tokens.starts[s + 1]; t++)
                if (step.tokens.table[t] != s) std::abort();
        if (step.tokens.starts[0] || step.tokens.starts[step.tokens.runs] != step.tokens.count) std::abort();
        std::printf("%d ", int(step.tokens.count));
    });
}
"""


@pytest.fixture(scope="module")
def parts_of(tmp_path_factory):
    """Whether parts are fair, the longest, and the tokens of each."""
    folder = tmp_path_factory.mktemp("parts")
    (folder / "main.cpp").write_text(f"{CONTRACT}\n{PARTS}")
    command = [*toolchain.command(), "-std=c++17", "-fopenmp", f"-I{KERNELS}", "-o", "main", "main.cpp"]
    subprocess.run(command, cwd=folder, check=True)

    def run(threads, lengths):
        done = subprocess.run([folder / "main", *map(str, (threads, *lengths))], capture_output=True, text=True, check=True)
        fair, longest, *tokens = map(int, done.stdout.split())
        return bool(fair), longest, tokens

    return run


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parts_are_all_of_the_step_and_smaller_towards_its_end(parts_of, threads):
    fair, longest, tokens = parts_of(threads, MIXED * 8)
    assert fair and sum(tokens) == sum(MIXED) * 8 and max(tokens) == longest == max(MIXED)
    even = parts_of(threads, (10,) * 200)[2]
    assert even[0] == 120 and even[-1] <= (120 if threads == 1 else 60)


@pytest.mark.parametrize("lengths", [(90,), (290, 4, 30, 8), (20, 20)], ids=str)
def test_step_that_is_no_shares_for_all_threads_is_not_cut(parts_of, lengths):
    assert parts_of(1, lengths)[0] and not parts_of(2, lengths)[0]
