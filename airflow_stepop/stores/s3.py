"""S3 and compatible stores, reached with an Airflow connection of type ``aws``. Used by ``configured.py``."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

from airflow_stepop.connections.aws import DEFAULT_CONN_ID, AwsConnection, AwsKeys, keys_of
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.stores.access import Access
from airflow_stepop.stores.obstore_calls import client_options, retry_config
from airflow_stepop.stores.s3_listing import Bucket, every_object

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config, S3Credential, S3Store

    from airflow_stepop.stores.base import StoredObject


class AwsAccess(Access):
    """Location and credentials of an S3 bucket.

    :param conn_id: the connection; by default ``aws_default``, if it exists
    """

    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/upload-objects.html
    largest_put_bytes = 5 << 30
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html; it need not be signed
    create_only_headers: Mapping[str, str] = {"If-None-Match": "*"}
    lasting = (
        "give the connection keys that do not expire, or set a longer DurationSeconds in its "
        "assume_role_kwargs"
    )

    def __init__(self, conn_id: str | None) -> None:
        super().__init__(conn_id)
        self._aws = AwsConnection(conn_id, service="s3", owner="the store", need="an s3:// store")
        self._session: Any = None

    # -- the client

    def client(self, bucket: str, prefix: str) -> S3Store:
        from obstore.store import S3Store

        config: S3Config = {
            "region": self._aws.region(),
            "unsigned_payload": True,  # readers check every byte with our own SHA-256
            "virtual_hosted_style_request": self._is_virtual_hosted(),
        }
        endpoint = self._aws.endpoint()
        if endpoint:
            config["endpoint"] = endpoint
        provider = self._provider()
        return S3Store(
            bucket,
            prefix=prefix or None,
            config=config,
            client_options=self._client_options(endpoint),
            retry_config=retry_config(),
            **({"credential_provider": provider} if provider else {}),
        )

    def _is_virtual_hosted(self) -> bool:
        style = ((self._aws.extra.get("config_kwargs") or {}).get("s3") or {}).get("addressing_style")
        return bool(style == "virtual")

    def _client_options(self, endpoint: str) -> ClientConfig:
        options = client_options()
        if endpoint.startswith("http://"):
            options["allow_http"] = True
        verify = self._aws.option("verify")
        if verify is False:
            options["allow_invalid_certificates"] = True
        bundle = verify if isinstance(verify, str) else os.environ.get("AWS_CA_BUNDLE")
        if bundle:
            try:
                with open(bundle, "rb") as file:
                    options["root_certificate"] = file.read()
            except OSError as error:
                raise StepConfigError(f"the certificates for the store cannot be read: {error}") from error
        return options

    def every_object(self, bucket: str, prefix: str, after: str) -> Iterator[StoredObject] | None:
        region, endpoint, is_virtual = self._aws.region(), self._aws.endpoint(), self._is_virtual_hosted()
        keys, verify = self._aws.keys(), self._aws.option("verify")
        if keys is None:
            session = self._aws.new_session()
            find = keys_of(session) if session is not None else None
        else:
            find = lambda: keys  # noqa: E731
        if find is None or verify is False:
            return None
        if not endpoint:
            host = f"s3.{region}.amazonaws.com" + (".cn" if region.startswith("cn-") else "")
            endpoint = f"https://{bucket}.{host}" if is_virtual else f"https://{host}"
        url = endpoint if is_virtual else f"{endpoint}/{bucket}"
        bundle = verify if isinstance(verify, str) else os.environ.get("AWS_CA_BUNDLE")
        return every_object(Bucket(url, region, find, bundle), prefix, after)

    # -- credentials

    def _provider(self) -> Callable[[], S3Credential] | None:
        """Return a function that gives obstore credentials; ``None`` if obstore should find them itself."""
        keys = self._aws.keys()
        if keys is not None:
            return lambda: _credential(keys)
        session = self._session = self._aws.new_session()
        if session is None:
            return None
        find = keys_of(session)
        return lambda: _credential(find())

    def end(self) -> float | None:
        keys = self._aws.keys()
        if keys is not None:
            return None if keys.token else math.inf
        if self._session is None:
            return None
        keys = keys_of(self._session)()
        if not keys.token:
            return math.inf
        return keys.expires_at.timestamp() if keys.expires_at else None

    def renew(self) -> None:
        self._session = None

    def advice(self, answer: str) -> str:
        who = f"the connection {self.conn_id}" if self.conn_id else f"{DEFAULT_CONN_ID} or the environment"
        for words, text in _ADVICE.items():
            if any(word in answer for word in words):
                return text.format(who=who)
        return (
            f"Check that the bucket exists, that {who} may read and write it, and that endpoint and region "
            "are right; or name another store in [stepop] store"
        )


_ADVICE: Mapping[tuple[str, ...], str] = {
    ("NoSuchBucket",): "Create the bucket, or name another one in [stepop] store",
    ("NoSuchKey", "not found"): "The object was deleted, by a person or by a lifecycle rule of the bucket",
    ("169.254.169.254",): "No credentials were found: add keys to {who}",
    ("SignatureDoesNotMatch", "InvalidAccessKeyId", "UserNotFound", "InvalidToken"): (
        "Correct the keys of {who}"
    ),
    ("ExpiredToken",): "The session token of {who} has expired; renew it, or use a role",
    ("AuthorizationHeaderMalformed", "PermanentRedirect"): "Set region_name in {who} to the bucket's region",
    ("AccessDenied",): "Allow {who} to get, put, list and delete objects there",
    ("error sending request", "client error (Connect)"): (
        "Check endpoint_url and region_name of {who}, and that this host can reach the store"
    ),
}


def _credential(keys: AwsKeys) -> S3Credential:
    return {
        "access_key_id": keys.key_id,
        "secret_access_key": keys.secret,
        "token": keys.token,
        "expires_at": keys.expires_at and keys.expires_at.astimezone(UTC),  # obstore accepts UTC only
    }
