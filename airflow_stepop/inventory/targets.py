"""The places where jobs of this deployment may be: each usable backend, with each of its connections.

The commands of ``airflow stepop`` and ``maintenance`` call this module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow_stepop.connections.extra import backend_of, may_be_for_steps
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.inventory.database import database_trouble
from airflow_stepop.registry import create_hook, describe_backends

if TYPE_CHECKING:
    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import FoundJob, JobHandle, JobStatus

Complain = Callable[[str], None]
ENV_PREFIX = "AIRFLOW_CONN_"


@dataclass(frozen=True)
class Target:
    """A backend together with the connection that reaches it, or without a connection.

    :param location: settings that lead to another place than the connection's own, as (name, value)
    """

    backend: str
    conn_id: str | None = None
    location: tuple[tuple[str, Any], ...] = ()

    @cached_property
    def hook(self) -> StepHook:
        return create_hook(self.backend, self.conn_id)

    def at(self, location: Mapping[str, Any]) -> Target:
        """Return the target for another place, with the hook of this one."""
        other = Target(self.backend, self.conn_id, tuple(sorted(location.items())))
        vars(other)["hook"] = self.hook  # where cached_property keeps it
        return other

    def find(self, labels: Mapping[str, str]) -> list[FoundJob]:
        """Return the jobs with ``labels`` in the target's place."""
        if not self.location:
            return list(self.hook.find(labels))
        settings = parse_settings(self.hook.settings_model, dict(self.location), self.backend)
        return list(self.hook.find_for(settings, labels))

    def __str__(self) -> str:
        words = [self.conn_id] if self.conn_id else []
        words += [f"{name}={value}" for name, value in self.location]
        return f"{self.backend} ({', '.join(words)})" if words else self.backend


@dataclass(frozen=True)
class Job:
    """A job of this deployment: the target that lists it, its handle with its labels, and its status."""

    target: Target
    found: FoundJob
    status: JobStatus

    @property
    def handle(self) -> JobHandle:
        return self.found.handle

    @property
    def hook(self) -> StepHook:
        return self.target.hook

    def label(self, name: str) -> str:
        return self.found.labels.get(name, "")


def deployment() -> str:
    """Return ``[stepop] deployment``. The commands never touch jobs and results of another deployment."""
    from airflow.sdk.configuration import conf

    return str(conf.get("stepop", "deployment", fallback=""))


def readable_connections(complain: Complain) -> Iterator[tuple[str, Any]]:
    """Yield the id and the connection for each connection in the database and the environment.

    :param complain: called with a message for each connection that cannot be read
    """
    for conn_id, load in [*_in_database(complain), *_in_environment()]:
        try:
            connection = load()
        except Exception as error:  # noqa: BLE001, RUF100 - a wrong key or URI spoils one connection only
            complain(_unreadable(conn_id, error))
        else:
            yield conn_id, connection


def _unreadable(conn_id: str, error: Exception) -> str:
    return f"the connection {conn_id!r} cannot be read: {error or type(error).__name__}"


def connections(complain: Complain) -> list[Target]:
    """Return the connections that lead to a backend, from the database and the environment.

    A connection of AWS or Google that says nothing of steps is left out, unless it is ``aws_default`` or
    ``google_cloud_default``: it may lead to a bucket. ``--conn-id`` of the commands names others.

    :param complain: called with a message for each connection that cannot be read; the others are returned
    """
    found = set()
    for conn_id, connection in readable_connections(complain):
        try:
            backend = backend_of(connection) if may_be_for_steps(connection) else None
        except Exception as error:  # noqa: BLE001, RUF100 - a wrong extra spoils one connection only
            complain(_unreadable(conn_id, error))
            continue
        if backend is not None:
            found.add(Target(backend, conn_id))
    return sorted(found, key=str)


def _in_database(complain: Complain) -> list[tuple[str, Callable[[], Any]]]:
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.exc import DBAPIError

    try:
        with create_session() as session:
            stored = list(session.scalars(select(Connection)))
            session.expunge_all()
    except DBAPIError as error:
        complain(database_trouble(error))
        return []
    return [(connection.conn_id, partial(_same, connection)) for connection in stored]


def _in_environment() -> Iterator[tuple[str, Callable[[], Any]]]:
    from airflow.models.connection import Connection

    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            conn_id = name.removeprefix(ENV_PREFIX).lower()
            yield conn_id, partial(Connection.get_connection_from_secrets, conn_id)


def _same(connection: Any) -> Any:
    return connection


def target_of(conn_id: str) -> Target:
    """Return the target of a connection.

    :raises StepConfigError: the connection does not exist, leads to no backend, or its extra is no JSON
        object
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise StepConfigError(f"there is no connection {conn_id!r}; see airflow connections list") from error
    backend = backend_of(connection)
    if backend is None:
        raise StepConfigError(
            f"the connection {conn_id!r} is of type {connection.conn_type!r}, which leads to no backend; "
            'name one in its extra: {"backend": "..."}'
        )
    return Target(backend, conn_id)


def usable_targets(complain: Complain, also: Iterable[str] = ()) -> list[Target]:
    """Return the targets ``local``, the default backend, and every connection whose backend is installed.

    :param also: ids of further connections, because those of a secrets backend cannot be listed
    :raises StepConfigError: see ``target_of``, for the connections of ``also``
    """
    from airflow.sdk.configuration import conf

    usable = {backend.name for backend in describe_backends() if backend.is_available}
    default = conf.get("stepop", "default_backend", fallback="local")
    targets = [Target("local"), *(Target(name) for name in (default,) if name in usable - {"local"})]
    targets += [target for target in connections(complain) if target.backend in usable]
    return list(dict.fromkeys([*targets, *map(target_of, also)]))


def find_jobs(targets: Iterable[Target], labels: Mapping[str, str], complain: Complain) -> list[Job]:
    """Return the jobs of this deployment that have ``labels``, sorted by DAG, run, task and map index.

    A job that several targets list is returned once.

    :param complain: called with a message for each target that fails; the jobs of the others are returned
    """
    jobs: dict[tuple[str, str, str], Job] = {}
    wanted = {"deployment": deployment(), **labels}
    for target in targets:
        try:
            found = target.find(wanted)
            states = target.hook.status([job.handle for job in found]) if found else {}
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            complain(f"the jobs of {target} cannot be listed: {error or type(error).__name__}")
            continue
        for job in found:
            identity = (job.handle.backend, job.handle.scope, job.handle.id)
            jobs.setdefault(identity, Job(target, job, states[job.handle]))
    return sorted(jobs.values(), key=_order)


def _order(job: Job) -> tuple[Any, ...]:
    map_index = job.label("map_index")
    number = int(map_index) if map_index.lstrip("-").isdigit() else -1
    names = (job.label("dag_id"), job.label("run_id"), job.label("task_id"))
    return (*names, number, job.found.created_at, job.handle.name)
