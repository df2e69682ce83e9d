"""Service accounts: their keys, their permissions, and the tokens that were issued for them.

Sources: https://google.aip.dev/auth/4111 (self-signed JWTs) and
https://developers.google.com/identity/protocols/oauth2/service-account (JWTs for a token).
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jwt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.emulators.gcs.errors import ApiError, bad_token

CLOUD_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
STORAGE_SCOPE = "https://www.googleapis.com/auth/devstorage."
# Permissions of roles/storage.objectUser: https://docs.cloud.google.com/storage/docs/access-control/iam-roles
OBJECT_USER = frozenset(
    {f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list", "update")}
    | {f"storage.multipartUploads.{verb}" for verb in ("create", "abort", "listParts", "list")}
)
TOKEN_URI = "https://oauth2.googleapis.com/token"
TOKEN_S = 3600.0


@dataclass
class Account:
    """A service account.

    :param permissions: what it may do in each bucket
    :param token_creators: e-mail addresses of the accounts that may make tokens and signatures for it
    """

    email: str
    project: str
    permissions: set[str] = field(default_factory=lambda: set(OBJECT_USER))
    token_creators: set[str] = field(default_factory=set)

    @cached_property
    def key(self) -> rsa.RSAPrivateKey:
        """The key that its owner has downloaded."""
        return rsa.generate_private_key(65537, 2048)

    @cached_property
    def managed_key(self) -> rsa.RSAPrivateKey:
        """The key that never leaves Google. ``signBlob`` signs with it."""
        return rsa.generate_private_key(65537, 2048)

    def key_file(self, token_uri: str) -> dict[str, Any]:
        """Return the content of the key file, as the console offers it."""
        pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "key-1",
            "private_key": pem.decode(),
            "client_email": self.email,
            "client_id": "100000000000000000001",
            "token_uri": token_uri,
        }

    def has_signed(self, data: bytes, signature: bytes) -> bool:
        for key in (self.key, self.managed_key):
            try:
                key.public_key().verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            except InvalidSignature:
                continue
            return True
        return False


@dataclass(frozen=True)
class Caller:
    """Who sends a request. ``account=None`` is an anonymous caller."""

    account: Account | None
    scopes: frozenset[str] = frozenset({CLOUD_SCOPE})

    @property
    def name(self) -> str:
        return self.account.email if self.account else "Anonymous caller"

    def may_use_storage(self, is_write: bool) -> bool:
        wanted = {CLOUD_SCOPE, *(f"{STORAGE_SCOPE}{level}" for level in ("full_control", "read_write"))}
        if not is_write:
            wanted |= {f"{STORAGE_SCOPE}read_only", f"{CLOUD_SCOPE}.read-only"}
        return bool(self.scopes & wanted)


class Accounts:
    """All accounts, and the access tokens that are valid."""

    def __init__(self, audience: str = "") -> None:
        self.audience = audience  # address of the token endpoint
        self._accounts: dict[str, Account] = {}
        self._tokens: dict[str, tuple[Caller, float]] = {}
        self._lock = threading.Lock()
        self.issued = 0
        self.token_s = TOKEN_S  # how long a new token is valid

    def add(self, name: str, project: str = "test-project") -> Account:
        account = Account(f"{name}@{project}.iam.gserviceaccount.com", project)
        self._accounts[account.email] = account
        return account

    def find(self, email: str) -> Account | None:
        return self._accounts.get(email)

    def issue(self, caller: Caller, seconds: float | None = None) -> tuple[str, float]:
        """Return a new access token, and for how many seconds it is valid."""
        token, valid_s = f"ya29.{secrets.token_urlsafe(40)}", seconds or self.token_s
        with self._lock:
            self._tokens[token] = caller, time.time() + valid_s
            self.issued += 1
        return token, valid_s

    def revoke_all(self) -> None:
        with self._lock:
            self._tokens.clear()

    def caller_of(self, authorization: str | None) -> Caller:
        """Return who has sent a request with this header.

        :raises ApiError: 401, the token is not valid
        """
        if authorization is None:
            return Caller(None)
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer" or not token:
            raise bad_token()
        with self._lock:
            found = self._tokens.get(token)
        if found is None and token.count(".") == 2:
            claims = self._claims(token)
            if claims.get("aud") not in (None, "https://storage.googleapis.com/"):
                raise bad_token()
            return Caller(self._accounts[claims["iss"]], _scopes(claims.get("scope") or CLOUD_SCOPE))
        if found is None or found[1] < time.time():
            raise bad_token()
        return found[0]

    def exchange(self, form: dict[str, str]) -> dict[str, Any]:
        """Answer a request to the token endpoint.

        :raises ApiError: the assertion is not valid
        """
        if form.get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer":
            raise ApiError(400, "unsupported_grant_type", "Invalid grant_type: " + form.get("grant_type", ""))
        try:
            claims = self._claims(form.get("assertion", ""))
        except ApiError as error:
            raise ApiError(400, "invalid_grant", "Invalid JWT Signature.") from error
        if claims.get("aud") not in (self.audience, TOKEN_URI) or not claims.get("scope"):
            raise ApiError(400, "invalid_grant", "Invalid JWT: Failed audience check.")
        caller = Caller(self._accounts[claims["iss"]], _scopes(claims["scope"]))
        token, seconds = self.issue(caller)
        return {"access_token": token, "expires_in": int(seconds), "token_type": "Bearer"}

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            issuer = json.loads(_decoded(token.split(".")[1]))["iss"]
            public = self._accounts[issuer].key.public_key()
            claims: dict[str, Any] = jwt.decode(
                token, public, algorithms=["RS256"], options={"verify_aud": False}
            )
            is_valid = claims["exp"] - claims["iat"] <= 3600 and claims.get("sub", issuer) == issuer
        except (jwt.PyJWTError, KeyError, IndexError, ValueError) as error:
            raise bad_token() from error
        if not is_valid:
            raise bad_token()
        return claims


def _scopes(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _decoded(text: str) -> bytes:
    return jwt.utils.base64url_decode(text)
