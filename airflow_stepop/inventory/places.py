"""All places where jobs and data of this deployment may be: those of the settings, connections and records.

A job need not be in the own place of its connection: its task may have named another region or namespace, or
somebody has edited the connection since. The record of the job knows the place.

The commands of ``airflow stepop`` and ``maintenance`` call this module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_stepop.connections.defaults import KEY, read_defaults
from airflow_stepop.exceptions import StepConfigError, StepopError
from airflow_stepop.inventory.database import TaskKey, checked, raw_records
from airflow_stepop.inventory.targets import Complain, Target, readable_connections, usable_targets
from airflow_stepop.record import StepRecord
from airflow_stepop.registry import describe_backends, hook_class
from airflow_stepop.stores.configured import configured_stores, store_of

if TYPE_CHECKING:
    from airflow_stepop.stores.base import Store


def all_targets(complain: Complain, also: Iterable[str] = ()) -> list[Target]:
    """Return the usable targets, and one for each further place that a record with a job names.

    :param complain: called with a message for each connection that cannot be read
    :param also: ids of further connections; those in the records need not be named
    :raises StepConfigError: see ``usable_targets``, for the connections of ``also``
    """
    found = dict.fromkeys(usable_targets(complain, also))
    usable = {backend.name for backend in describe_backends() if backend.is_available}
    for record in _records_with_jobs(complain):
        if record.backend not in usable:
            continue
        target = _target_of(record, found)
        if target is None:
            continue
        found.setdefault(target)
        known = next(one for one in found if one == target)  # which has a hook already
        try:
            location = known.hook.location_of(record.handle) if record.handle else record.location
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            complain(f"the place of {record.name} is not known: {error or type(error).__name__}")
            continue
        if location:
            found.setdefault(known.at(location))
    return list(found)


def _records_with_jobs(complain: Complain) -> Iterator[StepRecord]:
    """Yield one record for each place, of those whose job may still be at its service.

    A damaged or changed record is left out: ``sweep`` says which one, if it has a job. So nobody who writes a
    record makes a command look up a connection.
    """
    seen = set()
    for key, data in _known_records(complain):
        if not _may_have_job(data):
            continue
        handle = data.get("handle") or {}
        place = repr([data.get("backend"), data.get("conn_id"), data.get("location"), handle.get("scope")])
        if place in seen:
            continue
        with suppress(StepopError):
            yield checked(data, key)
            seen.add(place)


def _may_have_job(data: Any) -> bool:
    if not isinstance(data, Mapping) or not isinstance(data.get("handle") or {}, Mapping):
        return False
    collected = data.get("collected") or {}
    if not isinstance(collected, Mapping):
        return False
    return not collected or data.get("keep") == "always" or "failure" in collected


def _known_records(complain: Complain) -> Iterator[tuple[TaskKey, Any]]:
    from sqlalchemy.exc import DBAPIError

    try:
        yield from raw_records()
    except DBAPIError:  # the search for connections has reported it
        return
    except StepopError as error:
        complain(f"the places that records name are not known: {error}")


def _target_of(record: StepRecord, known: Iterable[Target]) -> Target | None:
    """Return the target of a record; ``None`` if its connection does not exist any more."""
    conn_id = record.handle.conn_id if record.handle else record.conn_id
    target = Target(record.backend, conn_id)
    if target in known:
        return target
    if conn_id is None:
        usual = Target(record.backend, hook_class(record.backend).default_conn_id)
        return usual if usual in known else target
    return target if _connection(conn_id) is not None else None


def _connection(conn_id: str) -> Any:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None


def _connections_in(data: Any) -> Iterator[str]:
    for one in (data, data.get("handle")) if isinstance(data, Mapping) else ():
        conn_id = one.get("conn_id") if isinstance(one, Mapping) else None
        if isinstance(conn_id, str):
            yield conn_id


def all_stores(complain: Complain) -> list[Store]:
    """Return the stores of the settings, and those that connections name, each store once.

    Connections in a secrets backend cannot be listed: those count that a record names.

    :param complain: called with a message for each connection with a mistake in its defaults
    """
    given: dict[str, Any] = dict(readable_connections(lambda text: None))  # other callers report these
    for key, data in _known_records(complain):
        for conn_id in set(_connections_in(data)) - set(given):
            with suppress(StepopError):
                checked(data, key)
                given[conn_id] = _connection(conn_id)
    stores = {store.url: store for store in configured_stores()}
    for connection in given.values():
        if connection is None or KEY not in (connection.extra or ""):
            continue
        try:
            store = store_of(read_defaults(connection))
        except StepConfigError as error:
            complain(str(error))
            continue
        if store is not None:
            stores.setdefault(store.url, store)
    return list(stores.values())
