"""A client of the emulator of Cloud Storage that sends what a test tells it to, and nothing else."""

from __future__ import annotations

import hashlib
import http.client
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.emulators.gcs.accounts import Account, Caller
from tests.support.gcs import Gcs


@dataclass
class Reply:
    """An answer; :attr:`code` and :attr:`details` are those of an error."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def xml(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.body)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def texts(self, tag: str) -> list[str]:
        return [one.text or "" for one in self.xml.iter() if one.tag.rpartition("}")[2] == tag]

    @property
    def code(self) -> str:
        return self.texts("Code")[0]

    @property
    def details(self) -> str:
        return self.texts("Details")[0]


@dataclass
class Client:
    """Sends requests with an access token of the account; without one if that is ``None``."""

    gcs: Gcs
    account: Account | None = None

    def __call__(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        query: dict[str, str] | None = None,
        **headers: str,
    ) -> Reply:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.account is not None and "Authorization" not in given:
            given["Authorization"] = f"Bearer {self.token()}"
        target = quote(path, safe="/:") + (f"?{urlencode(query)}" if query else "")
        return self.send(method, target, body, given)

    def send(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(self.gcs.endpoint).netloc, timeout=60)
        try:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, answer.read(), dict(answer.getheaders()))
        finally:
            connection.close()

    def token(self, *scopes: str) -> str:
        caller = Caller(self.account, frozenset(scopes)) if scopes else Caller(self.account)
        return self.gcs.world.accounts.issue(caller)[0]

    def signed(self, method: str, path: str, *, expires: str = "60", **changes: Any) -> str:
        """Return a signed target, made step by step as the documentation says.

        :param changes: ``headers``, ``at``, ``account``, ``query``: what differs from the usual
        """
        account = changes.get("account", self.account) or self.gcs.account
        at: datetime = changes.get("at") or datetime.now(UTC)
        headers = {"host": urlsplit(self.gcs.endpoint).netloc, **changes.get("headers", {})}
        names = ";".join(sorted(headers))
        scope = at.strftime("%Y%m%d/auto/storage/goog4_request")
        query = {
            "X-Goog-Algorithm": "GOOG4-RSA-SHA256",
            "X-Goog-Credential": f"{account.email}/{scope}",
            "X-Goog-Date": at.strftime("%Y%m%dT%H%M%SZ"),
            "X-Goog-Expires": expires,
            "X-Goog-SignedHeaders": names,
            **changes.get("query", {}),
        }
        pairs = "&".join(f"{name}={quote(value, safe='-_.~')}" for name, value in sorted(query.items()))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = f"{method}\n{quote(path)}\n{pairs}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"GOOG4-RSA-SHA256\n{query['X-Goog-Date']}\n{scope}\n{digest}"
        signature = account.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{quote(path)}?{pairs}&X-Goog-Signature={signature.hex()}"
