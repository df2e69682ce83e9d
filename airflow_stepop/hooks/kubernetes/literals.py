"""What no cluster accepts, as far as a DAG file says it. Imported while DAG files are read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from airflow_stepop.core.image_names import IMAGE
from airflow_stepop.exceptions import StepConfigError, UnsupportedError

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


def check_literals(image: str | None, resources: ResourceSettings | None) -> None:
    """Refuse an image with an invalid name, several nodes, and a GPU type that is no label of a node.

    :raises StepConfigError: no cluster can run this
    """
    if image is not None and not IMAGE.fullmatch(image):
        raise StepConfigError(
            f"image={image!r} is no name of a container image, such as 'python:3.12' or "
            "'registry.example.com/team/image:1.0'; its path is in lower case"
        )
    if resources is None:
        return
    if resources.nodes is not None and resources.nodes > 1:
        raise UnsupportedError(no_nodes(resources.nodes))
    if resources.gpu_type is not None and not LABEL.fullmatch(resources.gpu_type):
        raise StepConfigError(
            f"gpu_type={resources.gpu_type!r} cannot be the label of a node; write it as the label of your "
            "GPU nodes, such as 'A100' or 'nvidia-l4'"
        )


def no_nodes(nodes: int) -> str:
    return f"nodes={nodes}: backend 'kubernetes' runs a step in one pod; use nodes=1"
