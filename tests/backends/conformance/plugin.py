"""The option --backend, for runs of this suite alone: pytest loads it everywhere, so it stays out of other people's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

SUITE = Path(__file__).resolve().parent
OPTION = "llmc_backends"


def is_suite(argument: str) -> bool:
    """Whether an argument of pytest names this package, or its folder, or something in it."""
    place = argument.split("::")[0]
    return place.startswith("llmc.conformance") or SUITE in (Path(place).resolve(), *Path(place).resolve().parents)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: Any, parser: Any) -> None:
    if any(map(is_suite, early_config.known_args_namespace.file_or_dir)):
        what = "a backend to test, by name or as module:Class; repeatable; all that can run here by default"
        parser.getgroup("llmc").addoption("--backend", action="append", dest=OPTION, metavar="NAME", help=what)


def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; run with -m slow")
    if chosen := config.getoption(OPTION, default=None):
        from llmc.conformance.subject import named
        from llmc.errors import LLMCError

        try:
            setattr(config.option, OPTION, [named(text) for text in chosen])
        except LLMCError as error:
            raise pytest.UsageError(str(error)) from error
