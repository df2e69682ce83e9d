r"""Java's regular expressions, which the vendor's model uses, in Python.

AWS checks a pattern with ``Matcher.matches()`` of Java: the whole value must match, and ``.`` matches none
of the line terminators ``\n \r \u0085 \u2028 \u2029``. So a ContainerArgument with a newline is refused.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

NO_LINE_END = r"[^\n\r\u0085\u2028\u2029]"
POSIX = {"Alnum": "a-zA-Z0-9", "Alpha": "a-zA-Z", "Digit": "0-9", "Upper": "A-Z", "Lower": "a-z"}


@cache
def _categories() -> dict[str, str]:
    r"""Return the characters of each general category (``L``, ``N``, ...) as the inside of a class."""
    found: dict[str, list[list[int]]] = {}
    for code in range(sys.maxunicode + 1):
        ranges = found.setdefault(unicodedata.category(chr(code))[0], [])
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return {
        name: "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
        for name, ranges in found.items()
    }


def _category(name: str) -> str:
    return POSIX.get(name) or _categories()[name]


@cache
def compiled(pattern: str) -> re.Pattern[str] | None:
    """Return the pattern for ``fullmatch``, or None if Python cannot express it."""
    parts, in_class = [], False
    tokens = re.finditer(r"\\p\{(\w+)\}|\\.|.", pattern, re.DOTALL)
    for token in tokens:
        text = token.group()
        if token.group(1):
            inside = _category(token.group(1))
            parts.append(inside if in_class else f"[{inside}]")
        elif text == "." and not in_class:
            parts.append(NO_LINE_END)
        else:
            in_class = (in_class or text == "[") and text != "]"
            parts.append(text)
    try:
        return re.compile("".join(parts), re.ASCII)
    except re.error:
        return None  # two patterns of operations that are not emulated


def matches(pattern: str, value: str) -> bool:
    known = compiled(pattern)
    return known is None or known.fullmatch(value) is not None
