"""How products of whole numbers with many rows are cut to fit the caches: by a model of them, or as `tuning` found.

A cut changes no bit of a result (kernels/linear_integer_impl.h), only its speed.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from llmc.backends.cpu import store
from llmc.backends.cpu.build import Code, headers
from llmc.backends.cpu.targets import Target
from llmc.errors import ToolchainError
from llmc.runtime import processor
from llmc.runtime.cache import CACHE_VARIABLE

SECOND_CACHE = 1 << 20
"""Bytes of the second cache where nobody tells, or where code is made for another machine."""

MOST = 1 << 30
KERNEL = "linear_integer_impl.h"
CONSTANTS = re.compile(r"\bROWS_BYTES = (?P<rows>\d+), CODES_BYTES = (?P<codes>\d+);")


@dataclass(frozen=True)
class Cuts:
    """Bytes of what stays in a core's second cache meanwhile.

    rows: of a block of rounded rows, which all panels of weights pass. codes: of weights of 4 bits taken apart to a byte each,
    which all rows of the block pass.
    """

    rows: int
    codes: int

    @property
    def text(self) -> str:
        """Constants of a kernel's file."""
        return f"namespace llmc {{ constexpr int ROWS_BYTES = {self.rows}, CODES_BYTES = {self.codes}; }}  // in a cache"


def modelled(second_cache: int) -> Cuts:
    """Three eighths for rows and one for codes: sums, outputs and the weights that come next need the rest."""
    return Cuts(second_cache // 8 * 3, second_cache // 8)


def of_machine(target: Target) -> Cuts:
    """By the model of this machine's caches, if it is the one that the code is for."""
    known = processor.cache_bytes(2) if target.machine == platform.machine() else 0
    return modelled(known or SECOND_CACHE)


def of(target: Target) -> Cuts:
    """As they were tuned for the kernels and the compiler that there are, else by the model."""
    return _kept(target) or of_machine(target)


def read(texts: Iterable[str]) -> Cuts | None:
    """As sources of a model are cut; None if nothing in them is."""
    found = next(filter(None, map(CONSTANTS.search, texts)), None)
    return Cuts(int(found["rows"]), int(found["codes"])) if found else None


def keep(target: Target, cuts: Cuts) -> Path:
    """Have code made so from now on. Raises ToolchainError if the cache cannot be written."""
    path = _file(target)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(asdict(cuts)))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ToolchainError(f"cannot keep what was found in {path.parent}: {error}; set {CACHE_VARIABLE}") from error
    return path


def _kept(target: Target) -> Cuts | None:
    try:
        data = json.loads(_file(target).read_text())
        cuts = Cuts(data["rows"], data["codes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cuts if all(type(size) is int and 0 < size < MOST for size in (cuts.rows, cuts.codes)) else None


def _file(target: Target) -> Path:
    """Named after all that the best cuts depend on."""
    code = Code("", {}, headers(), target)
    kernels = code.included(f'#include "{KERNEL}"').values()
    return store.cache_folder() / "tuned" / f"{code.digest(target.name, processor.model(), *kernels)}.json"
