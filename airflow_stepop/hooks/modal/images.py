"""Which image of Modal a step gets, as pure functions. ``objects.py`` makes the ``modal.Image`` of it.

``image=`` takes the name of an image in any registry, and ``modal:NAME`` for an image that was published in
Modal. Source: https://modal.com/docs/guide/existing-images and https://modal.com/docs/sdk/py/latest/modal.Image
"""

from __future__ import annotations

import re
import sys
from typing import Any, Protocol

from airflow_stepop.core.image_names import IMAGE
from airflow_stepop.exceptions import StepConfigError

PUBLISHED = "modal:"  # image="modal:NAME": an image that was published in Modal
# An image's name, its environment before it and its tag behind it. "im-" begins the id of an image
_NAME = re.compile(
    r"(?:[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}/)?(?!im-)[a-zA-Z0-9_.-]{1,64}(?::[a-zA-Z0-9_.-]{1,64})?"
)
_ECR = re.compile(r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.[a-z0-9-]+\.[a-z0-9.-]+/.+")
_GOOGLE = re.compile(r"(?:[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io)/.+")
# constructor of modal.Image -> the keys that its Secret must have
KEYS = {
    "from_registry": "REGISTRY_USERNAME and REGISTRY_PASSWORD",
    "from_aws_ecr": "AWS_REGION, and AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_ROLE_ARN",
    "from_gcp_artifact_registry": "SERVICE_ACCOUNT_JSON",
}


class ImageSettings(Protocol):
    """What ``ModalSettings`` says about the image."""

    @property
    def registry_secret(self) -> str | None: ...
    @property
    def add_python(self) -> str | None: ...


def check_image(image: str) -> None:
    """Check the spelling of an image's name.

    :raises StepConfigError: it is no name of an image
    """
    if image.startswith(PUBLISHED):
        if not _NAME.fullmatch(image.removeprefix(PUBLISHED)):
            raise StepConfigError(
                f"image={image!r} names no published image: behind 'modal:' is its name, such as "
                "'modal:my-image' or 'modal:my-image:v1', of letters, digits and _ . - (im-... is an id: "
                "publish the image under a name)"
            )
    elif not IMAGE.fullmatch(image):
        raise StepConfigError(
            f"image={image!r} is no name of a container image, such as 'python:3.12-slim' or "
            "'registry.example.com/team/image:1.0' (its path is in lower case), and no image that was "
            "published in Modal, such as 'modal:my-image'"
        )


def image_of(
    image: str | None, settings: ImageSettings, python: str = f"{sys.version_info[0]}.{sys.version_info[1]}"
) -> dict[str, Any]:
    """Return the image of a step as JSON: ``constructor`` of ``modal.Image``, and its arguments.

    ``"entrypoint": []`` says that the image's ENTRYPOINT is cleared. Modal appends the command to it, so it
    would run instead of the step. Modal's own image has none.

    :param image: the image of the task or its connection; ``None``: Modal's ``debian_slim``
    :param python: version of Python for ``debian_slim``. Functions are pickled with Airflow's version
    :raises StepConfigError: the settings do not fit the image
    """
    secret, add_python = settings.registry_secret, settings.add_python
    if image is not None:
        check_image(image)
    if image is None or image.startswith(PUBLISHED):
        what = "without image= the step runs in Modal's own image" if image is None else f"image={image!r}"
        for name, value in (("registry_secret", secret), ("add_python", add_python)):
            if value is not None:
                raise StepConfigError(
                    f"{name}={value!r} is for an image in a registry, and {what}; leave it out, or write "
                    "image='registry.example.com/team/image:1.0'"
                )
    if image is None:
        return {"constructor": "debian_slim", "python_version": python}
    if image.startswith(PUBLISHED):
        return {"constructor": "from_name", "name": image.removeprefix(PUBLISHED), "entrypoint": []}
    constructor = _constructor(image, secret)
    found = {"constructor": constructor, "tag": image, "secret": secret, "add_python": add_python}
    return {name: value for name, value in found.items() if value is not None} | {"entrypoint": []}


def _constructor(image: str, secret: str | None) -> str:
    """Return the constructor of ``modal.Image`` for the registry of an image."""
    if _ECR.fullmatch(image):
        if secret is None:
            raise StepConfigError(
                f"image={image!r} lies in Amazon ECR, which lets nobody pull without credentials; create a "
                f"Secret in Modal with {KEYS['from_aws_ecr']}, and write "
                "settings={'registry_secret': 'NAME'}"
            )
        return "from_aws_ecr"
    if secret is not None and _GOOGLE.fullmatch(image):  # without a Secret, the repository is public
        return "from_gcp_artifact_registry"
    return "from_registry"
