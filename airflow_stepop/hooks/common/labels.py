"""Labels of a job: encoding for the service, and comparison of the original labels. Hooks call both.

A service limits the characters and the length of a label. So a backend labels the job with encoded values,
which the service can select by, and stores the original labels elsewhere at the job. ``StepHook.find``
selects jobs by the encoded labels and then compares the original ones with :func:`matches`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelRules:
    """A service's rules for the value of a label.

    :param charset: allowed characters, in the syntax of a regular expression's character class:
        ``A-Za-z0-9._-``
    :param length: maximum number of characters
    :param edges: characters allowed as the first and the last one, in the same syntax
    """

    charset: str
    length: int
    edges: str = "A-Za-z0-9"

    def encode(self, value: str) -> str:
        """Return the value unchanged if it is valid; else its valid characters and a digest of the value."""
        edge, inner = f"[{self.edges}]", f"[{self.charset}]"
        if re.fullmatch(rf"({edge}({inner}{{0,{self.length - 2}}}{edge})?)?", value):
            return value
        slug = self._trimmed(re.sub(rf"[^{self.charset}]+", "-", value))
        slug = self._trimmed(slug[: self.length - 17])
        return f"{slug}-{hashlib.sha256(value.encode()).hexdigest()[:16]}".lstrip("-")

    def _trimmed(self, text: str) -> str:
        return re.sub(rf"^[^{self.edges}]+|[^{self.edges}]+$", "", text)


def matches(original: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether the labels ``original`` of a job include all of ``wanted``."""
    return wanted.items() <= original.items()
