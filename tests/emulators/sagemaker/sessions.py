"""Temporary credentials: what STS has issued through the emulator, and whether it is still valid.

The server behind the emulator (moto) issues them. The emulator remembers them, so that a request with such a
key needs its token, and can be refused because it has expired, as at AWS.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

from tests.emulators.sagemaker.errors import ApiError

TEMPORARY = "ASIA"  # how the id of a temporary key begins


@dataclass
class Sessions:
    """The temporary credentials of the account."""

    tokens: dict[str, str] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)

    def issued(self, body: str, lifetime_s: float | None) -> str:
        """Remember the credentials in an answer of STS, and return the answer.

        :param lifetime_s: when they expire, by their own words; ``None``: as the answer says
        """
        key, token = (re.search(f"<{name}>(.*?)</{name}>", body) for name in ("AccessKeyId", "SessionToken"))
        if not key or not token:
            return body
        self.tokens[key[1]] = token[1]
        if lifetime_s is None:
            return body
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + lifetime_s))
        return re.sub("(<Expiration>).*?<", rf"\g<1>{until}<", body)

    def expire(self) -> None:
        """Let all that were issued until now expire."""
        self.expired |= set(self.tokens)

    def valid(self) -> dict[str, str | None]:
        """Return the token of each key that was issued; ``None``: it has expired."""
        return {key: None if key in self.expired else token for key, token in self.tokens.items()}

    def check(self, key: str, token: str | None) -> None:
        """Raise what AWS answers to temporary credentials that are wrong or have expired."""
        if not key.startswith(TEMPORARY) and not token:
            return
        if key in self.expired:
            raise ApiError("ExpiredTokenException", "The security token included in the request is expired")
        if token is None or self.tokens.get(key) != token:
            text = "The security token included in the request is invalid."
            raise ApiError("UnrecognizedClientException", text)
