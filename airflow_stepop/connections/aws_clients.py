"""boto3 clients of an Airflow connection of type ``aws``. Called by the hook of SageMaker.

The Amazon provider turns a connection into a session, with every way to assume a role. Its hooks look the
connection up themselves, which a thread of a triggerer must not do. So this module is given the connection.
"""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

# Retries of the SDK for reads. Callers of a hook retry transient errors for much longer
_READS = {"mode": "standard", "max_attempts": 3}
# A create is never sent twice by the SDK: after an unclear answer the hook looks for the job first
_ONCE = {"mode": "standard", "total_max_attempts": 1}
_EXPIRED = frozenset({"ExpiredTokenException", "ExpiredToken"})


class AwsClients:
    """boto3 clients of one connection in one region. They may be used by several threads.

    :param connection: of type ``aws``; ``None``: the credentials come from the environment, as for every AWS
        tool
    :param region: region of the services; ``None``: that of the connection, else of the environment
    """

    def __init__(self, connection: Connection | None, region: str | None = None) -> None:
        self._connection = connection
        self._region = region
        self._made: dict[tuple[str, bool], Any] = {}
        self._making = threading.Lock()  # boto3 sessions are not thread-safe, and their clients are

    @cached_property
    def _factory(self) -> Any:
        from airflow.providers.amazon.aws.hooks.base_aws import BaseSessionFactory

        # The factory is typed for the Connection of Airflow's core. It reads only fields that both have
        connection: Any = self._connection
        if connection is not None and connection.conn_type not in ("aws", ""):
            raise StepConfigError(
                f"the connection {connection.conn_id!r} is of type {connection.conn_type!r}; "
                "backend 'sagemaker' needs one of type aws"
            )
        return BaseSessionFactory(conn=connection, region_name=self._region)

    @cached_property
    def _session(self) -> Any:
        return self._factory.create_session()

    @cached_property
    def region(self) -> str:
        """The region of the services.

        :raises StepConfigError: neither the settings, the connection nor the environment name one
        """
        named = self._factory.region_name or os.environ.get("AWS_REGION") or self._session.region_name
        if not named:
            raise StepConfigError(
                "no AWS region: set region_name in the extra of the connection, or "
                "settings={'region_name': 'eu-west-1'}"
            )
        return str(named)

    @cached_property
    def account(self) -> str:
        """The number of the account that the credentials belong to; the first call sends a request."""
        return str(self.identity["Account"])

    @cached_property
    def identity(self) -> dict[str, str]:
        """The answer of STS ``GetCallerIdentity``, which no policy can deny.

        Source: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
        """
        answer = self.client("sts").get_caller_identity()
        return {name: answer[name] for name in ("Account", "Arn", "UserId")}

    def client(self, service: str, *, is_sent_once: bool = False) -> Any:
        """Return the client of a service, such as ``sagemaker`` or ``logs``.

        :param is_sent_once: the SDK sends no request a second time, also after an unclear answer
        """
        key = service, is_sent_once
        with self._making:
            if key not in self._made:
                self._made[key] = self._new(service, _ONCE if is_sent_once else _READS)
            return self._made[key]

    def _new(self, service: str, retries: dict[str, Any]) -> Any:
        from botocore.config import Config

        wrapper = self._factory.conn
        own = Config(connect_timeout=10, read_timeout=60, retries=retries, max_pool_connections=20)
        given = wrapper.botocore_config  # `config_kwargs` of the connection's extra: proxies, for example
        if given is not None:
            own = own.merge(given) if retries is _READS else given.merge(own)
        client = self._session.client(
            service,
            region_name=self.region,
            endpoint_url=wrapper.get_service_endpoint_url(service) or None,
            verify=wrapper.verify,
            config=own,
        )
        client.meta.events.register("after-call", self._note_answer)
        return client

    def _note_answer(self, parsed: dict[str, Any], **_: object) -> None:
        """Forget credentials that have expired. The next request takes them anew, for example from a file."""
        if (parsed.get("Error") or {}).get("Code") not in _EXPIRED:
            return
        with self._making:
            self._made.clear()
            for name in ("_session", "_factory"):
                self.__dict__.pop(name, None)


_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
}


def partition_of(region: str) -> str:
    """Return the partition of a region, the second word of an ARN.

    Source: https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html
    """
    return next((name for prefix, name in _PARTITIONS.items() if region.startswith(prefix)), "aws")
