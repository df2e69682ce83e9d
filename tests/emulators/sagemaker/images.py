"""Names of images: ``ACCOUNT.dkr.ecr.REGION.amazonaws.com/NAME:TAG`` or ``...@sha256:DIGEST``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

REGISTRY = r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
ECR = re.compile(
    rf"(?P<host>{REGISTRY})/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Image:
    """An image in a registry of ECR."""

    host: str
    account: str
    region: str
    name: str
    tag: str = "latest"
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Image | None:
        """Return None for a name that is not one of ECR, such as ``python:3.12``."""
        found = ECR.fullmatch(text)
        if not found:
            return None
        parts = found.groupdict()
        return cls(**{**parts, "tag": parts["tag"] or "latest", "digest": parts["digest"] or ""})

    @property
    def repository(self) -> str:
        return f"{self.host}/{self.name}"

    @property
    def arn(self) -> str:
        return f"arn:aws:ecr:{self.region}:{self.account}:repository/{self.name}"

    def has_tag(self, repositories: dict[str, list[str]]) -> bool:
        tags = repositories.get(self.repository, [])
        if self.digest:
            return self.digest in [digest_of(self.repository, tag) for tag in tags] + tags
        return "*" in tags or self.tag in tags


def digest_of(repository: str, tag: str) -> str:
    """Return the digest that the emulator gives to a tag."""
    return f"sha256:{hashlib.sha256(f'{repository}:{tag}'.encode()).hexdigest()}"
