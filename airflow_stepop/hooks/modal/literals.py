"""What no sandbox of Modal can have, as far as a DAG file says it. Imported while DAG files are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.exceptions import UnsupportedError
from airflow_stepop.hooks.modal.images import check_image

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

# of every sandbox; none can ask for more: https://modal.com/docs/guide/resources
DISK_BYTES = 512 * 2**30


def check_literals(image: str | None, resources: ResourceSettings | None) -> None:
    """Refuse an image that Modal cannot name, several nodes, ``shm``, a large ``disk``, and unknown GPUs.

    :raises StepConfigError: no sandbox can have this
    """
    if image is not None:
        check_image(image)
    if resources is None:
        return
    if (resources.nodes or 1) > 1:
        raise UnsupportedError(
            f"nodes={resources.nodes}: backend 'modal' runs a step in one sandbox; use nodes=1"
        )
    if resources.shm is not None:
        raise UnsupportedError(
            f"shm={resources.shm!r}: Modal decides the size of /dev/shm, and no argument of a sandbox "
            "changes it; leave shm out, or use files below /tmp"
        )
    if (resources.disk_bytes or 0) > DISK_BYTES:
        raise UnsupportedError(
            f"disk={resources.disk!r}: a sandbox has a disk of 512 GiB and cannot ask for more; use "
            "disk='512GiB' or less, a Volume (settings.volumes), or a bucket (settings.cloud_bucket_mounts)"
        )
    if resources.gpu_count:
        from airflow_stepop.hooks.modal.gpus import fitting

        fitting(resources.gpu_count, resources.gpu_type)
