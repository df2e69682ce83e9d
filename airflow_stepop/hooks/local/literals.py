"""What the local backend never runs, as far as a DAG file says it. Imported while DAG files are read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.sdk.configuration import conf

from airflow_stepop.exceptions import UnsupportedError

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

OF_THIS_HOST = ("LocalExecutor", "SequentialExecutor")  # executors whose workers run beside the scheduler


def check_literals(image: str | None, resources: ResourceSettings | None) -> None:
    """Refuse a container image, several nodes, and GPUs on a host without any.

    GPUs are looked for only if Airflow's workers run on this host. Their driver is not asked, as this takes
    seconds: the number and the type of the GPUs are checked when the step runs.

    :raises UnsupportedError: no local job can have this
    """
    if image is not None:
        raise UnsupportedError(no_image(image))
    if resources is None:
        return
    if resources.nodes is not None and resources.nodes > 1:
        raise UnsupportedError(no_nodes(resources.nodes))
    if resources.gpu_count and _is_workers_host():
        from airflow_stepop.hooks.local.supervisor.gpus import has_gpus

        if not has_gpus(os.environ):
            raise UnsupportedError(
                f"gpu_count={resources.gpu_count}: this host has none; leave it out, or use a remote backend"
            )


def no_image(image: str) -> str:
    return f"image={image!r}: the local backend runs on this host without containers; leave image out"


def no_nodes(nodes: int) -> str:
    return f"nodes={nodes}: the local backend is one host; use nodes=1, or a remote backend"


def _is_workers_host() -> bool:
    names = conf.get("core", "executor", fallback="").split(",")
    return all(name.strip().rpartition(":")[2] in OF_THIS_HOST for name in names)
