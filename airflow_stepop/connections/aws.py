"""Airflow connections of type ``aws``: region, endpoint, keys and sessions, for stores and backends alike.

Keys are used as they are. A role or a profile needs the Amazon provider, which knows all of its ways to get
one; no connection at all means the environment, as for every program of AWS.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_stepop.connections.extra import extra_of
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_CONN_ID = "aws_default"
# Extras that say how to become somebody else
_NEEDS_PROVIDER = ("role_arn", "profile_name", "session_kwargs")


class AwsKeys(NamedTuple):
    """What signs a request; keys without a token have no end."""

    key_id: str
    secret: str
    token: str | None = None
    expires_at: datetime | None = None


class AwsConnection:
    """Reads an Airflow connection of type ``aws``, like the hooks of the Amazon provider.

    :param conn_id: by default ``aws_default`` if there is one
    :param service: the service of AWS that is spoken to: its own extras (``service_config``) come first
    :param owner: whose connection it is, for the errors: ``the store``
    :param need: what needs it, for the errors: ``an s3:// store``
    """

    def __init__(self, conn_id: str | None, *, service: str, owner: str, need: str) -> None:
        self.conn_id = conn_id
        self._service = service
        self._owner = owner
        self._need = need

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
                f"{self._owner}'s connection {self.conn_id!r} does not exist; add one of type aws"
            ) from None
        if connection.conn_type not in ("aws", ""):
            raise StepConfigError(
                f"{self._owner}'s connection {connection.conn_id!r} is of type {connection.conn_type!r}; "
                f"{self._need} needs one of type aws"
            )
        return connection

    @cached_property
    def extra(self) -> dict[str, Any]:
        return extra_of(self.connection) if self.connection is not None else {}

    def option(self, name: str) -> Any:
        """Return an extra of the service, else that of the whole connection."""
        service = (self.extra.get("service_config") or {}).get(self._service) or {}
        return service.get(name, self.extra.get(name))

    def region(self) -> str:
        named = self.extra.get("region_name") or os.environ.get("AWS_REGION")
        return str(named or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")

    def endpoint(self) -> str:
        """Return the address of the service where it is not that of AWS, else an empty text."""
        of_service = f"AWS_ENDPOINT_URL_{self._service.upper()}"
        named = self.option("endpoint_url") or os.environ.get(of_service)
        return str(named or os.environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")

    def keys(self) -> AwsKeys | None:
        """Return keys that the connection, or else the environment, holds."""
        if any(self.extra.get(name) for name in _NEEDS_PROVIDER):
            return None
        connection = self.connection
        if connection is not None and connection.login and connection.password:
            return AwsKeys(connection.login, connection.password, self.extra.get("aws_session_token"))
        key, secret = (self.extra.get(name) for name in ("aws_access_key_id", "aws_secret_access_key"))
        if key and secret:
            return AwsKeys(key, secret, self.extra.get("aws_session_token"))
        env = os.environ
        if env.get("AWS_ACCESS_KEY_ID") and env.get("AWS_SECRET_ACCESS_KEY"):
            return AwsKeys(
                env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN")
            )
        return None

    def new_session(self) -> Any:
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
                    f"no credentials for {self._owner} were found: give keys or a role to the connection "
                    f"{self.conn_id or DEFAULT_CONN_ID}, or put them where every program of AWS looks"
                )
            return session
        try:
            from airflow.providers.amazon.aws.hooks.base_aws import BaseSessionFactory
        except ModuleNotFoundError:
            raise StepConfigError(
                f"{self._owner}'s connection {self.conn_id or DEFAULT_CONN_ID!r} has {', '.join(wanted)}, "
                "which needs the Amazon provider: pip install 'airflow-stepop[s3]'"
            ) from None
        connection: Any = self.connection  # it wants the class of Airflow's core, and reads what both have
        return BaseSessionFactory(conn=connection).create_session()


def keys_of(session: Any) -> Callable[[], AwsKeys]:
    """Return what asks a session for its keys, which may be others every time."""
    credentials = session.get_credentials()

    def find() -> AwsKeys:
        frozen = credentials.get_frozen_credentials()  # renews what is about to end
        # There is no public way to ask botocore for it
        expires_at = getattr(credentials, "_expiry_time", None)
        return AwsKeys(frozen.access_key, frozen.secret_key, frozen.token, expires_at)

    return find
