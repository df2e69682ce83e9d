"""Labels of a job: as its service takes them, and as they were given.

A service limits the characters and the length of a label. So a backend labels the job with encoded values, by
which the service selects, and keeps the original labels elsewhere at the job, which :func:`matches` compares.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class LabelRules:
    """What a service takes as the value of a label.

    :param charset: the characters, as in a class of a regular expression: ``A-Za-z0-9._-``
    :param length: the most of them
    :param edges: the characters that may stand at both ends
    """

    charset: str
    length: int
    edges: str = "A-Za-z0-9"

    def encode(self, value: str) -> str:
        """Return the value itself if the service takes it, else a recognisable one with a digest."""
        edge, inner = f"[{self.edges}]", f"[{self.charset}]"
        if re.fullmatch(rf"({edge}({inner}{{0,{self.length - 2}}}{edge})?)?", value):
            return value
        slug = self._trimmed(re.sub(rf"[^{self.charset}]+", "-", value))
        slug = self._trimmed(slug[: self.length - 17])
        return f"{slug}-{hashlib.sha256(value.encode()).hexdigest()[:16]}".lstrip("-")

    def _trimmed(self, text: str) -> str:
        return re.sub(rf"^[^{self.edges}]+|[^{self.edges}]+$", "", text)


def matches(original: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether a job with the labels ``original`` carries all of ``wanted``."""
    return wanted.items() <= original.items()
