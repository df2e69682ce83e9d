"""S3 and what speaks like it: credentials, region and endpoint from an Airflow connection of type ``aws``.

Keys are used as they are. A role or a profile needs the Amazon provider, which knows all of its ways to get
one; no connection at all means the environment, as for every program of AWS.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_stepop.buckets import Access, client_options, retry_config
from airflow_stepop.connections.extra import extra_of
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from obstore.store import ClientConfig, S3Config, S3Credential, S3Store

DEFAULT_CONN_ID = "aws_default"
# Extras that say how to become somebody else
_NEEDS_PROVIDER = ("role_arn", "profile_name", "session_kwargs")

log = logging.getLogger(__name__)


class AwsAccess(Access):
    """Reads an Airflow connection of type ``aws``, like the hooks of the Amazon provider.

    :param conn_id: by default ``aws_default`` if there is one
    """

    def __init__(self, conn_id: str | None) -> None:
        super().__init__(conn_id)
        self._session: Any = None

    # -- the connection

    @cached_property
    def connection(self) -> Connection | None:
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        try:
            connection = BaseHook.get_connection(self.conn_id or DEFAULT_CONN_ID)
        except AirflowNotFoundException:
            if self.conn_id is None:
                return None
            raise StepConfigError(
                f"the store's connection {self.conn_id!r} does not exist; add one of type aws"
            ) from None
        if connection.conn_type not in ("aws", ""):
            raise StepConfigError(
                f"the store's connection {connection.conn_id!r} is of type {connection.conn_type!r}; "
                "an s3:// store needs one of type aws"
            )
        return connection

    @cached_property
    def extra(self) -> dict[str, Any]:
        return extra_of(self.connection) if self.connection is not None else {}

    def _option(self, name: str) -> Any:
        """Return an extra of the service ``s3``, else that of the whole connection."""
        service = (self.extra.get("service_config") or {}).get("s3") or {}
        return service.get(name, self.extra.get(name))

    # -- the client

    def client(self, bucket: str, prefix: str) -> S3Store:
        from obstore.store import S3Store

        region = self._region()
        config: S3Config = {
            "region": region,
            "unsigned_payload": True,  # every byte is checked by a digest of ours
            "virtual_hosted_style_request": self._is_virtual_hosted(),
        }
        endpoint = self._endpoint()
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

    def _region(self) -> str:
        named = self.extra.get("region_name") or os.environ.get("AWS_REGION")
        return str(named or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")

    def _endpoint(self) -> str:
        named = self._option("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL_S3")
        return str(named or os.environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")

    def _is_virtual_hosted(self) -> bool:
        style = ((self.extra.get("config_kwargs") or {}).get("s3") or {}).get("addressing_style")
        return bool(style == "virtual")

    def _client_options(self, endpoint: str) -> ClientConfig:
        options = client_options()
        if endpoint.startswith("http://"):
            options["allow_http"] = True
        verify = self._option("verify")
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

    # -- credentials

    def _provider(self) -> Callable[[], S3Credential] | None:
        """Return what gives obstore its credentials; ``None``: it finds them in the environment itself."""
        keys = self._keys()
        if keys is not None:
            return lambda: keys
        session = self._session = self._new_session()
        return session and _of_session(session)

    def _keys(self) -> S3Credential | None:
        """Return keys that the connection, or else the environment, holds."""
        if any(self.extra.get(name) for name in _NEEDS_PROVIDER):
            return None
        connection = self.connection
        if connection is not None and connection.login and connection.password:
            return _credential(connection.login, connection.password, self.extra.get("aws_session_token"))
        key, secret = (self.extra.get(name) for name in ("aws_access_key_id", "aws_secret_access_key"))
        if key and secret:
            return _credential(key, secret, self.extra.get("aws_session_token"))
        env = os.environ
        if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
            return _credential(
                env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN")
            )
        return None

    def _new_session(self) -> Any:
        """Return a session of boto3 or botocore that has credentials, or ``None``."""
        wanted = [name for name in _NEEDS_PROVIDER if self.extra.get(name)]
        if not wanted:
            try:
                import botocore.session
            except ModuleNotFoundError:
                return None
            session = botocore.session.get_session()
            if session.get_credentials() is None:
                raise StepConfigError(
                    f"no credentials for the store were found: give keys or a role to the connection "
                    f"{self.conn_id or DEFAULT_CONN_ID}, or put them where every program of AWS looks"
                )
            return session
        try:
            from airflow.providers.amazon.aws.hooks.base_aws import BaseSessionFactory
        except ModuleNotFoundError:
            raise StepConfigError(
                f"the store's connection {self.conn_id or DEFAULT_CONN_ID!r} has {', '.join(wanted)}, which "
                "needs the Amazon provider: pip install 'airflow-stepop[s3]'"
            ) from None
        connection: Any = self.connection  # it wants the class of Airflow's core, and reads what both have
        return BaseSessionFactory(conn=connection).create_session()

    def end(self) -> float | None:
        keys = self._keys()
        if keys is not None:
            return None if keys.get("token") else math.inf
        if self._session is None:
            return None
        credential = _of_session(self._session)()
        if not credential.get("token"):
            return math.inf
        expires_at = credential["expires_at"]
        return expires_at.timestamp() if expires_at else None

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
    ("NoSuchKey", "not found"): "Somebody, or a rule of the bucket, deleted it",
    ("169.254.169.254",): "No credentials were found: give keys to {who}",
    ("SignatureDoesNotMatch", "InvalidAccessKeyId", "UserNotFound", "InvalidToken"): (
        "Correct the keys of {who}"
    ),
    ("ExpiredToken",): "The session token of {who} has expired; renew it, or use a role",
    ("AuthorizationHeaderMalformed", "PermanentRedirect"): "Set region_name in {who} to the bucket's region",
    ("AccessDenied",): "Allow {who} to get, put, list and delete objects there",
    ("error sending request", "client error (Connect)"): (
        "Check endpoint_url and region_name of {who}, and that this host reaches it"
    ),
}


def _credential(key: str, secret: str, token: str | None, expires_at: datetime | None = None) -> S3Credential:
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": expires_at}


def _of_session(session: Any) -> Callable[[], S3Credential]:
    credentials = session.get_credentials()

    def find() -> S3Credential:
        frozen = credentials.get_frozen_credentials()  # renews what is about to end
        # There is no public way to ask botocore for it
        expires_at = getattr(credentials, "_expiry_time", None)
        if expires_at is not None:
            expires_at = expires_at.astimezone(UTC)  # obstore takes no other
        return _credential(frozen.access_key, frozen.secret_key, frozen.token, expires_at)

    return find
