"""Instruction sets that code is made for, and which of them this processor has."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from llmc.errors import UnsupportedError
from llmc.runtime import processor


@dataclass(frozen=True)
class Target:
    """An instruction set.

    flags: for the compiler. kind: of the machine, as `platform.machine()` calls it; empty for that of this one. needs:
    extensions of the processor without which the code does not run, as Linux calls them. slow_on: the maker of processors, as
    Linux calls it, on which a target after this one is faster.
    """

    name: str
    summary: str
    flags: tuple[str, ...] = ()
    kind: str = ""
    needs: tuple[str, ...] = ()
    slow_on: str = ""

    @property
    def machine(self) -> str:
        """The kind of the machine that code is made for."""
        return self.kind or platform.machine()

    @property
    def lacking(self) -> str:
        """Why code for it cannot run here; empty if it can."""
        return processor.lacking(self.machine, self.needs)

    def check(self) -> None:
        """Raise UnsupportedError if code for it cannot run here."""
        if self.lacking:
            raise UnsupportedError(f"code for '{self.name}' does not run here: {self.lacking}; compile for '{best().name}'")


def on_x86(name: str, summary: str, extensions: str, needs: str, *flags: str, slow_on: str = "") -> Target:
    """A target of extensions of x86, as compilers and as Linux call them."""
    words = (*(f"-m{name}" for name in extensions.split()), *flags)
    return Target(name, summary, words, "x86_64", tuple(needs.split()), slow_on)


def on_arm(name: str, summary: str, extensions: str, needs: str) -> Target:
    """A target of Armv8.2 with extensions, as compilers and as Linux call them."""
    return Target(name, summary, ("-march=" + "+".join(("armv8.2-a", *extensions.split())),), "aarch64", tuple(needs.split()))


VNNI = "avx512f avx512bw avx512vl avx512dq avx512_vnni fma f16c"
AVX512 = on_x86(
    "avx512",
    "AVX-512 with VNNI and BF16",
    "avx512f avx512bw avx512vl avx512dq avx512vnni avx512bf16 fma f16c",
    f"{VNNI} avx512_bf16",
    "-mprefer-vector-width=512",
    slow_on="GenuineIntel",
)
"""Of Intel's processors an instruction for pairs of bfloat16 takes two cycles or more, and float32 does as much work in one."""
AVX512_VNNI = on_x86(
    "avx512-vnni",
    "AVX-512 with VNNI, bfloat16 multiplied as float32",
    "avx512f avx512bw avx512vl avx512dq avx512vnni fma f16c",
    VNNI,
    "-mprefer-vector-width=512",
)
AVX2_VNNI = on_x86("avx2-vnni", "AVX2 with VNNI, FMA and F16C", "avx2 avxvnni fma f16c", "avx2 avx_vnni fma f16c")
AVX2 = on_x86("avx2", "AVX2 with FMA and F16C", "avx2 fma f16c", "avx2 fma f16c")
NEON_I8MM = on_arm("neon-i8mm", "Arm NEON with dot products, I8MM and BF16", "dotprod i8mm bf16", "asimd asimddp i8mm bf16")
NEON = on_arm("neon", "Arm NEON with dot products", "dotprod", "asimd asimddp")
PORTABLE = Target("portable", "C++ alone")
TARGETS = {target.name: target for target in (AVX512, AVX512_VNNI, AVX2_VNNI, AVX2, NEON_I8MM, NEON, PORTABLE)}
"""From the best to the one that every processor runs, of each kind of machine."""


def best() -> Target:
    """The first of TARGETS that runs here and is not slow here."""
    return next(target for target in TARGETS.values() if not target.lacking and target.slow_on != processor.vendor())


def named(name: str) -> Target:
    """The target of a name. Raises UnsupportedError if there is none."""
    if name not in TARGETS:
        raise UnsupportedError(f"the cpu backend makes no code for '{name}'; it does for {', '.join(TARGETS)}")
    return TARGETS[name]
