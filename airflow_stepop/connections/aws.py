"""Airflow connections of type ``aws``: region, endpoint, keys and sessions. Called by the S3 store.

- Keys in the connection are used as they are.
- A role or a profile needs the Amazon provider, which implements every way to assume a role.
- Without a connection, the credentials come from the environment, as for every AWS tool.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_stepop.connections.extra import extra_of
from airflow_stepop.connections.lookup import connection_of_type
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_CONN_ID = "aws_default"
# Extras that make the Amazon provider switch to another identity (a role or a profile)
_NEEDS_PROVIDER = ("role_arn", "profile_name", "session_kwargs")


class AwsKeys(NamedTuple):
    """The credentials that sign a request. Keys without a token do not expire."""

    key_id: str
    secret: str
    token: str | None = None
    expires_at: datetime | None = None


class AwsConnection:
    """Reads an Airflow connection of type ``aws``, as the hooks of the Amazon provider do.

    :param conn_id: the connection; by default ``aws_default``, if it exists
    :param service: the AWS service that is called, such as ``s3``. Options below ``service_config`` for this
        service win over those of the whole connection
    :param owner: the owner of the connection, for error messages: ``the store``
    :param need: the feature that needs the connection, for error messages: ``an s3:// store``
    """

    def __init__(self, conn_id: str | None, *, service: str, owner: str, need: str) -> None:
        self.conn_id = conn_id
        self._service = service
        self._owner = owner
        self._need = need

    @cached_property
    def connection(self) -> Connection | None:
        """The Airflow connection; ``None`` when none was named and ``aws_default`` does not exist.

        :raises StepConfigError: the named connection does not exist, or has another type
        """
        return connection_of_type(self.conn_id, "aws", DEFAULT_CONN_ID, owner=self._owner, need=self._need)

    @cached_property
    def extra(self) -> dict[str, Any]:
        return extra_of(self.connection) if self.connection is not None else {}

    def option(self, name: str) -> Any:
        """Return an option of the service (``service_config``), else of the connection, else ``None``."""
        service = (self.extra.get("service_config") or {}).get(self._service) or {}
        return service.get(name, self.extra.get(name))

    def region(self) -> str:
        """Return the region of the connection, else of the environment, else ``us-east-1``."""
        named = self.extra.get("region_name") or os.environ.get("AWS_REGION")
        return str(named or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1")

    def endpoint(self) -> str:
        """Return the configured address of the service; empty means the address of AWS itself."""
        of_service = f"AWS_ENDPOINT_URL_{self._service.upper()}"
        named = self.option("endpoint_url") or os.environ.get(of_service)
        return str(named or os.environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")

    def keys(self) -> AwsKeys | None:
        """Return the keys of the connection, else of the environment.

        ``None`` when a role or a profile is configured, or no keys are found: see :meth:`new_session`.
        """
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
        """Return a new session with credentials; ``None`` when botocore is not installed.

        A role or a profile gives a boto3 session of the Amazon provider. Otherwise botocore searches for
        credentials in its own order.

        :raises StepConfigError: botocore finds no credentials, or the Amazon provider is missing
        """
        wanted = [name for name in _NEEDS_PROVIDER if self.extra.get(name)]
        if not wanted:
            try:
                import botocore.session
            except ModuleNotFoundError:
                return None
            session = botocore.session.get_session()
            if session.get_credentials() is None:
                raise StepConfigError(
                    f"no credentials for {self._owner} were found: add keys or a role to the connection "
                    f"{self.conn_id or DEFAULT_CONN_ID}, or set them up where AWS tools look for them "
                    "(environment, ~/.aws, role of the machine)"
                )
            return session
        try:
            from airflow.providers.amazon.aws.hooks.base_aws import BaseSessionFactory
        except ModuleNotFoundError:
            raise StepConfigError(
                f"{self._owner}'s connection {self.conn_id or DEFAULT_CONN_ID!r} has {', '.join(wanted)}, "
                "which needs the Amazon provider: pip install 'airflow-stepop[s3]'"
            ) from None
        # The factory is typed for the Connection of Airflow's core. It reads only fields that both have
        connection: Any = self.connection
        return BaseSessionFactory(conn=connection).create_session()


def keys_of(session: Any) -> Callable[[], AwsKeys]:
    """Return a function that returns the current keys of ``session``: temporary keys change over time."""
    credentials = session.get_credentials()

    def find() -> AwsKeys:
        frozen = credentials.get_frozen_credentials()  # renews keys that are about to expire
        # botocore has no public API for the expiry time
        expires_at = getattr(credentials, "_expiry_time", None)
        return AwsKeys(frozen.access_key, frozen.secret_key, frozen.token, expires_at)

    return find
