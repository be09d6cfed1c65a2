"""Text of the user's model in C++: names that compile, comments that stay comments."""

from __future__ import annotations

import re
from collections.abc import Iterable

KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t class compl const
    const_cast constexpr continue decltype default delete do double dynamic_cast else enum explicit export extern false float
    for friend goto if inline int long mutable namespace new noexcept not not_eq nullptr operator or or_eq private protected
    public register reinterpret_cast return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor
    xor_eq""",
    )
)
"""C++17 (ISO/IEC 14882:2017, tables 5 and 6)."""

MACROS = frozenset(("assert", "errno", "stdin", "stdout", "stderr", "linux", "unix"))
"""Lower-case names that a header or the compiler may define; those in capitals never arise (see `identifier`)."""

LONGEST_NAME, LONGEST_COMMENT = 60, 200


def identifier(name: str) -> str:
    """A C++ identifier like a name: ASCII, not in capitals (macros), no underscores at its start or in a row (reserved)."""
    clean = re.sub(r"[^0-9A-Za-z]+", "_", name).lstrip("_")[:LONGEST_NAME]
    clean = clean.lower() if clean.isupper() else clean
    return f"w_{clean}" if not clean or clean[0].isdigit() else clean


def comment(text: str) -> str:
    """Text for a `//` comment: one line that no line break, backslash or trigraph of the text can end or continue."""
    line = "".join(c if c.isprintable() else " " for c in text).replace("\\", "/").replace("??", "? ?").rstrip()
    return line if len(line) <= LONGEST_COMMENT else f"{line[:LONGEST_COMMENT]}..."


def literal(text: str) -> str:
    """A C string: what is not a letter, digit or underscore as octal bytes of UTF-8, which no character after can extend."""
    plain = re.compile(rb"\w")
    return '"' + "".join(chr(byte) if plain.match(bytes([byte])) else f"\\{byte:03o}" for byte in text.encode()) + '"'


class Names:
    """The names taken in a scope, keywords and macros from the start."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._taken = {*KEYWORDS, *MACROS, *reserved}

    def free(self, name: str) -> bool:
        """Whether a name can be taken. A letter with digits (`r`, `i0`) is a loop variable's."""
        return name not in self._taken and not re.fullmatch(r"[A-Za-z]\d*", name)

    def take(self, name: str, suffixes: Iterable[str] = ("",)) -> str:
        """An identifier like `name` that is free with each of the suffixes; all of them are taken."""
        base, count = identifier(name), 0
        suffixes = tuple(suffixes)
        unique = base
        while not all(self.free(unique + suffix) for suffix in suffixes):
            count += 1
            unique = f"{base}_{count}"
        self._taken.update(unique + suffix for suffix in suffixes)
        return unique
