"""Who sends requests to Google: access tokens and signatures. ``google.py`` makes one from a connection.

- The key of a service account needs no further package, and no request for a token.
- Every other kind of credentials comes from google-auth, which ``pip install 'airflow-stepop[gcs]'`` (or
  ``[vertex]``) installs. Without a key, the IAM API signs.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

# Transient errors of token servers and of the IAM API are retried for so many seconds
RETRY_LIMIT_S = 240.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
# A new token is taken so long before the old one expires. A request may be retried for RETRY_LIMIT_S
_EARLY = timedelta(minutes=6)
_TOKEN_S = 3600  # https://google.aip.dev/auth/4111: a self-signed JWT lasts for an hour at most
_LATER = frozenset({408, 429, 500, 502, 503, 504})
# How long a signature of signBlob is valid, in seconds. Google replaces the keys of signBlob
# https://docs.cloud.google.com/storage/docs/access-control/signing-urls-manually
SIGN_BLOB_S = 12 * 3600.0

_CHAIN = (
    ". Each account of impersonation_chain must grant roles/iam.serviceAccountTokenCreator to the one "
    "before it, and the first to the account of the connection: gcloud iam service-accounts "
    "add-iam-policy-binding NEXT --member=serviceAccount:BEFORE "
    "--role=roles/iam.serviceAccountTokenCreator"
)


class Token(NamedTuple):
    """An access token, and when it expires."""

    text: str
    expires_at: datetime


class GoogleKey(NamedTuple):
    """The key of a service account, from its key file.

    :param info: the whole content of the key file
    """

    email: str
    key_id: str
    private_key: RSAPrivateKey
    project: str
    info: dict[str, Any]

    def sign(self, data: bytes) -> bytes:
        """Return the RSA signature of ``data`` (PKCS #1 v1.5 with SHA-256)."""
        from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
        from cryptography.hazmat.primitives.hashes import SHA256

        return self.private_key.sign(data, PKCS1v15(), SHA256())


def parse_key(info: Any, where: str) -> GoogleKey:
    """Return the key of a key file's content.

    :param where: what has the key, for error messages
    :raises StepConfigError: it is no key of a service account; the message does not show it
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    found = info if isinstance(info, dict) else {}
    if found.get("type", "service_account") != "service_account":
        raise StepConfigError(
            f"{where} has credentials of the type {found.get('type')!r} and not the key of a service "
            "account; give them as credential_config_file"
        )
    missing = [name for name in ("client_email", "private_key") if not found.get(name)]
    if missing:
        raise StepConfigError(f"{where} is no key file of a service account: it has no {missing[0]}")
    pem = str(found["private_key"]).replace("\\n", "\n")  # some forms escape the newlines
    key: Any = None
    with suppress(
        ValueError, TypeError
    ):  # the message must not be caused by this error, which may show the key
        key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, RSAPrivateKey):
        raise StepConfigError(f"{where}: private_key is no RSA key in PEM form; take the key file as it is")
    project = str(found.get("project_id") or "")
    info = {**found, "type": "service_account", "private_key": pem}
    return GoogleKey(str(found["client_email"]), str(found.get("private_key_id") or ""), key, project, info)


class Identity(ABC):
    """Makes access tokens and signatures. May be used by several threads.

    :ivar signature_s: how long a signature is valid at most, in seconds; ``None``: without limit
    """

    signature_s: float | None = None

    @abstractmethod
    def token(self) -> Token | None:
        """Return an access token that is valid for some minutes; ``None``: requests are anonymous.

        :raises StepConfigError: the credentials are refused
        :raises OSError: no token can be had now
        """

    @abstractmethod
    def email(self) -> str:
        """Return the e-mail address of the service account that signs.

        :raises StepConfigError: the credentials are those of no service account
        """

    @abstractmethod
    def sign(self, data: bytes) -> bytes:
        """Return the service account's RSA signature of ``data`` (PKCS #1 v1.5 with SHA-256).

        :raises StepConfigError: the service account may not sign
        :raises OSError: the data cannot be signed now
        """


class KeyIdentity(Identity):
    """The key of a service account. It signs its tokens itself: https://google.aip.dev/auth/4111."""

    def __init__(self, key: GoogleKey, scopes: Sequence[str]) -> None:
        self._key, self._scopes = key, scopes

    def token(self) -> Token:
        now = int(time.time())
        claims = {"iss": self._key.email, "sub": self._key.email, "scope": " ".join(self._scopes)}
        head = {"alg": "RS256", "typ": "JWT", "kid": self._key.key_id}
        parts = [head, {**claims, "iat": now, "exp": now + _TOKEN_S}]
        text = ".".join(_base64url(json.dumps(part).encode()) for part in parts)
        signature = _base64url(self._key.sign(text.encode()))
        return Token(f"{text}.{signature}", datetime.fromtimestamp(now + _TOKEN_S, UTC))

    def email(self) -> str:
        return self._key.email

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)


class AnonymousIdentity(Identity):
    """Nobody. Only what is public can be read."""

    def token(self) -> None:
        return None

    def email(self) -> str:
        raise StepConfigError("an anonymous connection cannot sign addresses; give it a service account")

    def sign(self, data: bytes) -> bytes:
        raise StepConfigError("an anonymous connection cannot sign addresses; give it a service account")


class AuthIdentity(Identity):
    """Credentials of google-auth.

    :param credentials: send the requests
    :param signers: ask the IAM API for signatures; by default the same. Those of an impersonated account are
        the credentials before the impersonation, as the account need not be allowed to impersonate itself
    :param delegates: the accounts of the impersonation chain but for the last one
    :param endpoint: address of the IAM Service Account Credentials API
    """

    signature_s = SIGN_BLOB_S

    def __init__(
        self, credentials: Any, *, endpoint: str, signers: Any = None, delegates: Sequence[str] = ()
    ) -> None:
        self._credentials, self._signers = credentials, signers or credentials
        self._delegates = delegates
        self._endpoint = endpoint
        self._lock = threading.Lock()

    def token(self) -> Token:
        return self._token_of(self._credentials)

    def email(self) -> str:
        found = getattr(self._credentials, "service_account_email", None)
        if found == "default":  # the metadata server tells the name together with a token
            self.token()
            found = getattr(self._credentials, "service_account_email", None)
        if not found or found == "default":
            kind = type(self._credentials).__name__
            raise StepConfigError(
                f"addresses can be signed for a service account only, and the credentials ({kind}) are "
                "those of none: give the connection a key, or an impersonation_chain to a service account"
            )
        return str(found)

    def sign(self, data: bytes) -> bytes:
        """Let the IAM API sign: https://docs.cloud.google.com/iam/docs/reference/credentials/rest."""
        from google.auth.transport.requests import Request

        url = f"{self._endpoint}/v1/projects/-/serviceAccounts/{self.email()}:signBlob"
        body = {"payload": base64.b64encode(data).decode()}
        names = [f"projects/-/serviceAccounts/{name}" for name in self._delegates]
        text = json.dumps({**body, **({"delegates": names} if names else {})}).encode()
        send = Request()

        def ask() -> Any:
            headers = {"Content-Type": "application/json"}
            headers["Authorization"] = f"Bearer {self._token_of(self._signers).text}"
            return send(url, "POST", text, headers, timeout=60)

        answer = _with_retries(ask)
        if answer.status != 200:
            raise self._refused(answer)
        return base64.b64decode(json.loads(answer.data)["signedBlob"])

    def _refused(self, answer: Any) -> Exception:
        try:
            why = json.loads(answer.data)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            why = f"HTTP {answer.status}"
        if answer.status in _LATER:
            return OSError(f"signBlob for {self.email()} failed: {why}")
        return StepConfigError(
            f"the service account {self.email()} cannot sign addresses: HTTP {answer.status}: {why}. Without "
            "a key, whoever signs needs roles/iam.serviceAccountTokenCreator on this account: gcloud iam "
            f"service-accounts add-iam-policy-binding {self.email()} --member=serviceAccount:ACCOUNT "
            "--role=roles/iam.serviceAccountTokenCreator (ACCOUNT may be the account itself)"
        )

    def _token_of(self, credentials: Any) -> Token:
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        with self._lock:
            now = datetime.now(UTC)
            if not credentials.token or _expiry(credentials, now) - now < _EARLY:
                try:
                    _with_retries(lambda: credentials.refresh(Request()))
                except GoogleAuthError as error:
                    raise _explained(error) from error
            return Token(str(credentials.token), _expiry(credentials, now))


def _explained(error: Any) -> Exception:
    """Return the error of this project for one of google-auth. Its text has no token."""
    texts = [str(error.args[0]) if error.args else type(error).__name__]
    found = _answered(error)
    if found.get("message"):
        texts.append(str(found["message"]))
    text = ": ".join(one.strip().rstrip(".") for one in texts)
    if _is_transient(error):
        return OSError(f"no access token can be had now: {text}")
    hint = _CHAIN if "iam.serviceAccounts.getAccessToken" in text else ""
    return StepConfigError(f"Google gives no access token for the credentials: {text}{hint}")


def _is_transient(error: Any) -> bool:
    from google.auth.exceptions import TransportError

    causes = (error, error.__cause__, *error.args)
    is_lost = any(isinstance(cause, TransportError) for cause in causes)
    return is_lost or bool(getattr(error, "retryable", False)) or _answered(error).get("code") in _LATER


def _answered(error: Any) -> dict[str, Any]:
    """Return the error in JSON with which the IAM API has answered; empty if there is none."""
    try:
        found = json.loads(error.args[1])["error"]
    except (IndexError, ValueError, TypeError, KeyError):
        return {}
    return found if isinstance(found, dict) else {}


def _expiry(credentials: Any, now: datetime) -> datetime:
    found: datetime | None = credentials.expiry  # in UTC, without a time zone
    return found.replace(tzinfo=UTC) if found is not None else now + timedelta(seconds=_TOKEN_S)


def _with_retries(ask: Callable[[], Any]) -> Any:
    """Call ``ask``; retry transient errors."""
    from google.auth.exceptions import GoogleAuthError

    end, pause_s = time.monotonic() + RETRY_LIMIT_S, _FIRST_PAUSE_S
    while True:
        try:
            answer = ask()
        except GoogleAuthError as error:
            if not _is_transient(error) or time.monotonic() + pause_s > end:
                raise
        else:
            if getattr(answer, "status", 200) not in _LATER or time.monotonic() + pause_s > end:
                return answer
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
