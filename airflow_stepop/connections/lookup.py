"""Looks up the Airflow connection of a cloud. Called by the readers of each type of connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection


def connection_of_type(
    conn_id: str | None, conn_type: str, default: str, *, owner: str, need: str
) -> Connection | None:
    """Return an Airflow connection; ``None`` when none was named and the default one does not exist.

    :param conn_id: the connection; ``None``: the default one
    :param owner: the owner of the connection, for error messages: ``the store``
    :param need: the feature that needs the connection, for error messages: ``an s3:// store``
    :raises StepConfigError: the named connection does not exist, or has another type
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(conn_id or default)
    except AirflowNotFoundException:
        if conn_id is None:
            return None
        raise StepConfigError(
            f"{owner}'s connection {conn_id!r} does not exist; add one of type {conn_type}"
        ) from None
    if connection.conn_type not in (conn_type, ""):
        raise StepConfigError(
            f"{owner}'s connection {connection.conn_id!r} is of type {connection.conn_type!r}; "
            f"{need} needs one of type {conn_type}"
        )
    return connection
