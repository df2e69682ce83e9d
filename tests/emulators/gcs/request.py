"""A request as it came over the wire, and an answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from email.message import Message
from functools import cached_property
from urllib.parse import parse_qsl, unquote


@dataclass(frozen=True)
class Request:
    """``target`` is the path with the query, still encoded."""

    method: str
    target: str
    headers: Message
    body: bytes

    @property
    def raw_path(self) -> str:
        return self.target.partition("?")[0]

    @cached_property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @cached_property
    def place(self) -> tuple[str, str]:
        """The bucket and the name of the object. The name is empty for a request about the bucket."""
        bucket, _, name = self.raw_path.lstrip("/").partition("/")
        return unquote(bucket), unquote(name)

    def header(self, name: str) -> str | None:
        return self.headers.get(name)


@dataclass
class Answer:
    """``body`` is left out of the answer to HEAD, and its length is not."""

    status: int = 200
    body: bytes | memoryview = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/xml; charset=UTF-8"
