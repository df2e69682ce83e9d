"""What no training job can have, as far as a DAG file says it. Imported while DAG files are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.exceptions import UnsupportedError

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings


def check_literals(image: str | None, resources: ResourceSettings | None) -> None:
    """Refuse several nodes and a size of ``/dev/shm``.

    An image is not checked: whether SageMaker can pull it depends on settings that the connection may give.

    :raises UnsupportedError: no training job can have these resources
    """
    if resources is None:
        return
    if resources.shm is not None:
        raise UnsupportedError(
            f"shm={resources.shm!r}: SageMaker decides the size of /dev/shm, and no field of the request "
            "changes it; leave shm out, or use files below /tmp"
        )
    if (resources.nodes or 1) > 1:
        raise UnsupportedError(
            f"nodes={resources.nodes}: backend 'sagemaker' runs a step on one machine; use nodes=1"
        )
