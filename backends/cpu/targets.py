"""Instruction sets that code is made for, and which of them this processor has."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from llmc.errors import UnsupportedError
from llmc.runtime import processor

X86 = ("x86_64", "AMD64")


@dataclass(frozen=True)
class Target:
    """An instruction set.

    flags: for the compiler. needs: extensions of the processor without which the code does not run, as Linux calls them.
    """

    name: str
    summary: str
    flags: tuple[str, ...]
    needs: tuple[str, ...] = ()

    @property
    def lacking(self) -> tuple[str, ...]:
        """What this processor does not have of what is needed."""
        return tuple(name for name in self.needs if name not in processor.extensions())

    def check(self) -> None:
        """Raise UnsupportedError if code for it cannot run here."""
        if self.lacking:
            raise UnsupportedError(
                f"code for '{self.name}' does not run on this processor, which lacks {', '.join(self.lacking)}; "
                f"compile for '{best().name}'"
            )


def on_x86(*names: str) -> tuple[str, ...]:
    """Flags that name extensions of x86 to the compiler."""
    return tuple(f"-m{name}" for name in names)


AVX512 = Target(
    "avx512",
    "AVX-512 with VNNI and BF16",
    (*on_x86("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "avx512bf16", "fma", "f16c"),
     "-mprefer-vector-width=512"),
    ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "fma", "f16c"),
)  # fmt: skip
AVX2 = Target("avx2", "AVX2 with FMA and F16C", on_x86("avx2", "fma", "f16c"), ("avx2", "fma", "f16c"))
PORTABLE = Target("portable", "C++ alone", ())
TARGETS = {target.name: target for target in (AVX512, AVX2, PORTABLE)}
"""From the best to the one that every processor runs."""


def best() -> Target:
    """The first of TARGETS that runs here."""
    return next(target for target in TARGETS.values() if not target.lacking)


def named(name: str) -> Target:
    """The target of a name. Raises UnsupportedError if there is none, or none on this kind of machine."""
    if name not in TARGETS:
        raise UnsupportedError(f"the cpu backend makes no code for '{name}'; it does for {', '.join(TARGETS)}")
    target = TARGETS[name]
    if target.needs and platform.machine() not in X86:
        raise UnsupportedError(f"code for '{name}' is made on x86 machines only, not on {platform.machine()}; take 'portable'")
    return target
