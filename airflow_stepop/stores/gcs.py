"""Buckets of Cloud Storage, reached with an Airflow connection of type ``google_cloud_platform``.

Used by ``configured.py``. obstore speaks the XML API: https://docs.cloud.google.com/storage/docs/xml-api/overview
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request

from airflow_stepop.connections.google import DEFAULT_CONN_ID, GoogleConnection
from airflow_stepop.connections.google_identity import AnonymousIdentity
from airflow_stepop.runner.threads import in_order
from airflow_stepop.stores.access import Access, Method
from airflow_stepop.stores.bucket import THREADS
from airflow_stepop.stores.obstore_calls import client_options, retry_config
from airflow_stepop.stores.s3_listing import listed

if TYPE_CHECKING:
    from obstore.store import ClientConfig, GCSConfig, GCSCredential, GCSStore

    from airflow_stepop.connections.google_identity import Identity
    from airflow_stepop.stores.base import StoredObject

ALGORITHM = "GOOG4-RSA-SHA256"
CREATE_ONLY: Mapping[str, str] = {"x-goog-if-generation-match": "0"}


class GcsAccess(Access):
    """Location and credentials of a bucket in Cloud Storage.

    :param conn_id: the connection; by default ``google_cloud_default``, if it exists
    """

    # The service takes 5 TiB. A PUT that is cut begins anew, so this is the limit of S3
    largest_put_bytes = 5 << 30
    create_only_headers = CREATE_ONLY
    lasting = "or give the connection the key of a service account (keyfile_dict or key_path)"

    def __init__(self, conn_id: str | None) -> None:
        super().__init__(conn_id)
        self._google = self._new()
        self._found: Identity | None = None
        self._finding = threading.Lock()
        self._place = "", ""  # bucket and prefix of the client

    def _new(self) -> GoogleConnection:
        return GoogleConnection(self.conn_id, owner="the store", need="a gs:// store")

    # -- the client

    def client(self, bucket: str, prefix: str) -> GCSStore:
        from obstore.store import GCSStore

        self._place = bucket, prefix
        config: GCSConfig = {
            "base_url": self._endpoint,
            "skip_signature": self._identity.token() is None,  # of requests to read
        }
        return GCSStore(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options=self._client_options(),
            retry_config=retry_config(),
            credential_provider=self._credential,
        )

    @property
    def _endpoint(self) -> str:
        """The address of Cloud Storage. Without a connection, ``STORAGE_EMULATOR_HOST`` may give it."""
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
        if emulator and self._google.connection is None:
            return emulator if "://" in emulator else f"http://{emulator}"
        return self._google.endpoint("storage")

    def _client_options(self) -> ClientConfig:
        options = client_options()
        if self._endpoint.startswith("http://"):
            options["allow_http"] = True
        options["default_headers"] = self._own_headers()
        return options

    def _own_headers(self) -> dict[str, str]:
        project = self._google.quota_project
        return {"x-goog-user-project": project} if project else {}

    def every_object(self, bucket: str, prefix: str, after: str) -> Iterator[StoredObject]:
        def request(asked: Mapping[str, str]) -> Request:
            token, headers = self._identity.token(), self._own_headers()
            if token is not None:
                headers["Authorization"] = f"Bearer {token.text}"
            return Request(f"{self._endpoint}/{bucket}?{urlencode(asked)}", headers=headers)  # noqa: S310

        return listed(request, prefix, after, is_encoded=True)

    # -- credentials

    @property
    def _identity(self) -> Identity:
        with self._finding:
            if self._found is None:
                self._found = self._google.identity()
            return self._found

    def _credential(self) -> GCSCredential:
        """Return an access token. obstore calls this before the token expires, also during a transfer."""
        token = self._identity.token()
        return {"token": token.text if token else "", "expires_at": token.expires_at if token else None}

    def end(self) -> float | None:
        valid_s = self._identity.signature_s
        return math.inf if valid_s is None else time.time() + valid_s

    def renew(self) -> None:
        with self._finding:
            self._google, self._found = self._new(), None

    # -- signatures

    def sign(
        self, client: Any, method: Method, paths: Sequence[str], valid_s: int, *, is_new: bool
    ) -> Sequence[str]:
        """See :meth:`Access.sign`. obstore cannot sign headers, nor another host than Google's."""
        bucket, prefix = self._place
        now, identity = datetime.now(UTC), self._identity
        email = identity.email()
        request = SignedRequest(method, self._endpoint, now, valid_s, CREATE_ONLY if is_new else {})
        if self._google.quota_project:
            request.query["userProject"] = self._google.quota_project

        def signed(path: str) -> str:
            return request.url(bucket, f"{prefix}/{path}" if prefix else path, identity, email)

        return list(in_order(signed, list(paths), THREADS))

    def has_refused_token(self, answer: str) -> bool:
        return "AuthenticationRequired" in answer or "401 Unauthorized" in answer

    def advice(self, answer: str) -> str:
        who = f"the connection {self.conn_id}" if self.conn_id else f"{DEFAULT_CONN_ID} or the environment"
        found = re.search(r"(\S+@\S+) does not have", answer)
        words = {"who": who, "bucket": self._place[0], "account": found.group(1) if found else "ACCOUNT"}
        if isinstance(self._found, AnonymousIdentity):
            return f"Give {who} a key instead of is_anonymous, which allows to read public objects only"
        for parts, text in _ADVICE.items():
            if any(part in answer for part in parts):
                return text.format(**words)
        return (
            f"Check that the bucket exists and that {who} may read and write it; or name another store in "
            "[stepop] store"
        )


class SignedRequest:
    """What several signed URLs have in common, and the V4 signature of each.

    Sources: https://docs.cloud.google.com/storage/docs/authentication/signatures and
    https://docs.cloud.google.com/storage/docs/authentication/canonical-requests

    :param endpoint: address of the service; the host is signed
    :param valid_s: for how many seconds the URLs are valid, 604,800 at most
    :param headers: the request must have them
    """

    def __init__(
        self, method: Method, endpoint: str, now: datetime, valid_s: int, headers: Mapping[str, str]
    ) -> None:
        self.method, self.endpoint = method, endpoint
        self.headers = dict(sorted({"host": urlsplit(endpoint).netloc, **headers}.items()))
        self.date = now.strftime("%Y%m%dT%H%M%SZ")
        self.scope = f"{now:%Y%m%d}/auto/storage/goog4_request"
        self.query = {
            "X-Goog-Algorithm": ALGORITHM,
            "X-Goog-Date": self.date,
            "X-Goog-Expires": str(valid_s),
            "X-Goog-SignedHeaders": ";".join(self.headers),
        }

    def url(self, bucket: str, name: str, identity: Identity, email: str) -> str:
        """Return the signed URL of an object.

        :param email: the account of ``identity``
        """
        path = f"/{bucket}/{quote(name, safe='/-_.~')}"
        query = self.query | {"X-Goog-Credential": f"{email}/{self.scope}"}
        pairs = "&".join(f"{key}={quote(value, safe='-_.~')}" for key, value in sorted(query.items()))
        lines = [f"{key}:{value}" for key, value in self.headers.items()]
        names = self.query["X-Goog-SignedHeaders"]
        canonical = "\n".join([self.method, path, pairs, *lines, "", names, "UNSIGNED-PAYLOAD"])
        digest = sha256(canonical.encode()).hexdigest()
        signature = identity.sign(f"{ALGORITHM}\n{self.date}\n{self.scope}\n{digest}".encode())
        return f"{self.endpoint}{path}?{pairs}&X-Goog-Signature={signature.hex()}"


_ADVICE: Mapping[tuple[str, ...], str] = {
    ("NoSuchBucket",): "Create the bucket, or name another one in [stepop] store",
    ("NoSuchKey", "not found"): "The object was deleted, by a person or by a lifecycle rule of the bucket",
    ("UserProjectMissing", "userProject"): "Set quota_project_id in {who} to the project that pays",
    ("scope(s) are not authorized",): "Remove scope from {who}, or use cloud-platform",
    ("storage.objects.", "storage.multipartUploads.", "AccessDenied"): (
        "Grant the account of {who} the role roles/storage.objectUser on the bucket: gcloud storage "
        "buckets add-iam-policy-binding gs://{bucket} --member=serviceAccount:{account} "
        "--role=roles/storage.objectUser"
    ),
    ("AuthenticationRequired", "401", "UNAUTHENTICATED"): (
        "Correct the key of {who}: it was deleted or is another account's, or the clock of this host is wrong"
    ),
    ("error sending request", "client error (Connect)"): (
        'Check endpoints.storage below "stepop" in the extra of {who}, and that this host can reach the store'
    ),
}
