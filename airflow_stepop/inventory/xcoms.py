"""Read the XComs in Airflow's database as text; ``maintenance.garbage`` searches them for stored results.

A reference to a result can be anywhere in a value. The caller searches only for names of jobs, so text is
enough.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.inventory.database import ROWS

_READERS = ("store_value", "serialize_value", "deserialize_value")


def xcom_texts() -> Iterator[str]:
    """Yield the text of every XCom that may refer to a stored result.

    :raises StepConfigError: the configured XCom backend cannot read a value on this host
    """
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom

    if _reads_alike(XCom, BaseXCom):
        yield from _plain_texts()
        return
    object_storage = _object_storage()
    is_object_storage = object_storage is not None and _reads_alike(XCom, object_storage)
    for row in _rows():
        try:
            yield _object_text(object_storage, row.value) if is_object_storage else _custom_text(XCom, row)
        except Exception as error:
            raise StepConfigError(
                f"nothing is deleted, because an XCom cannot be read: {row.key!r} of {row.dag_id}."
                f"{row.task_id}, {row.run_id}, with {XCom.__module__}.{XCom.__qualname__}: {error!r}. "
                "This XCom could refer to a stored result"
            ) from error


def _reads_alike(one: Any, other: Any) -> bool:
    def reader(kind: Any, name: str) -> Any:
        found = getattr(kind, name, None)
        return getattr(found, "__func__", found)

    return all(reader(one, name) is reader(other, name) for name in _READERS)


def _object_storage() -> Any:
    try:
        from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend
    except ImportError:
        return None
    return XComObjectStorageBackend


def _plain_texts() -> Iterator[str]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import Text, cast, select

    text = cast(XComModel.value, Text)
    query = select(text).where(text.like("%results/%")).execution_options(yield_per=ROWS)
    with create_session(scoped=False) as session:
        for value in session.scalars(query):
            yield str(value)


def _rows() -> Iterator[Any]:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    columns = (XComModel.dag_id, XComModel.run_id, XComModel.task_id, XComModel.map_index, XComModel.key)
    query = select(*columns, XComModel.value).execution_options(yield_per=ROWS)
    with create_session(scoped=False) as session:
        yield from session.execute(query)


def _object_text(backend: Any, value: Any) -> str:
    """Return the value that ``XComObjectStorageBackend`` stores for a row, as text.

    The value is in the row itself, or in the file that the row names.
    """
    from airflow.sdk.configuration import conf

    if not conf.get("common.io", "xcom_objectstorage_path", fallback=""):
        # without this option the backend takes each value for one that is in the database
        raise StepConfigError("[common.io] xcom_objectstorage_path is not set here")
    try:
        path = backend._get_full_path(value)
    except (TypeError, ValueError):  # the backend's own test for a value that is no path
        return json.dumps(value)
    try:
        with path.open(mode="rb", compression="infer") as file:
            return str(file.read().decode())
    except FileNotFoundError:
        return json.dumps(value)


def _custom_text(backend: Any, row: Any) -> str:
    """Return a value of a custom XCom backend in Airflow's serialized form: references appear as text."""
    from airflow.sdk.serde import serialize

    return json.dumps(backend.deserialize_value(row), default=serialize)
