"""python -m llmc.conformance [--backend NAME]...: the page of what backends run and refuse, on stdout."""

from __future__ import annotations

import argparse
import sys

from llmc.conformance.subject import available, named
from llmc.conformance.table import page
from llmc.errors import LLMCError


def main() -> int:
    """Print the page; 2 if a backend is not there."""
    parser = argparse.ArgumentParser("python -m llmc.conformance", description="Print what backends run and what they refuse.")
    what = "a backend, by name or as module:Class; repeatable; all that can run here by default"
    parser.add_argument("--backend", action="append", metavar="NAME", help=what)
    try:
        chosen = [named(text) for text in parser.parse_args().backend or available()]
        print(page(chosen), end="")
    except LLMCError as error:
        print(f"llmc: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
