"""What an Airflow connection says about a step: for its request, its store, and the command line."""

from __future__ import annotations

import json
from typing import Any

from airflow_stepop.exceptions import StepConfigError

_BACKEND_OF_TYPE = {
    "kubernetes": "kubernetes",
    "aws": "sagemaker",
    "google_cloud_platform": "vertex",
    "azure": "azureml",
    "modal": "modal",
}
# What their servers are for is open: buckets, queues, databases
_SHARED_TYPES = {"aws": "aws_default", "google_cloud_platform": "google_cloud_default"}


def may_be_for_steps(connection: Any) -> bool:
    """Return whether steps may use a connection, as far as it says so itself.

    A connection of a type that many services share is for steps if it has defaults for them, names a backend,
    or is the type's default connection. The connection of a bucket is not.

    :raises StepConfigError: its extra is not a JSON object
    """
    default = _SHARED_TYPES.get(connection.conn_type or "")
    return default in (None, connection.conn_id) or bool({"stepop", "backend"} & set(extra_of(connection)))


def backend_of(connection: Any) -> str | None:
    """Return the backend that a connection leads to: what its extra says, else by its type.

    Other mistakes in the extra do not matter here: whoever lists jobs must find those of a connection whose
    defaults somebody has misspelt.

    :raises StepConfigError: its extra is not a JSON object
    """
    extra = extra_of(connection)
    defaults = extra.get("stepop")
    named = defaults.get("backend") if isinstance(defaults, dict) else None
    for name in (named, extra.get("backend")):
        if name and isinstance(name, str):
            return name
    return _BACKEND_OF_TYPE.get(connection.conn_type or "")


def extra_of(connection: Any) -> dict[str, Any]:
    """Return the extra of a connection. Airflow takes one that it cannot read for an empty one.

    :param connection: that of the SDK or of Airflow's core
    :raises StepConfigError: it is not a JSON object
    """
    problem = "is JSON and not an object"
    try:
        extra = json.loads(connection.extra or "{}")
    except (ValueError, RecursionError) as error:
        extra, problem = None, f"is not JSON ({error})"
    if not isinstance(extra, dict):
        raise StepConfigError(
            f"the extra of the connection {connection.conn_id!r} is not a JSON object; correct it: "
            f'its text {problem}; write one such as {{"name": "value"}}'
        )
    connection.extra_dejson  # noqa: B018 - for what Airflow does on the way: it masks the secrets in it
    return extra
