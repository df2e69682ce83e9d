"""Which image of Modal ``image=`` stands for, and what is no image."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.modal import ModalSettings
from airflow_stepop.hooks.modal.images import image_of

ECR = "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1"
GOOGLE = "us-east1-docker.pkg.dev/project/repository/image:1"


@pytest.mark.parametrize(
    ("image", "settings", "expected"),
    [
        ("python:3.12-slim", {}, {"constructor": "from_registry", "tag": "python:3.12-slim"}),
        (
            "ubuntu:24.04",
            {"add_python": "3.12"},
            {"constructor": "from_registry", "tag": "ubuntu:24.04", "add_python": "3.12"},
        ),
        (
            "ghcr.io/team/image:1",
            {"registry_secret": "ghcr"},
            {"constructor": "from_registry", "tag": "ghcr.io/team/image:1", "secret": "ghcr"},
        ),
        (ECR, {"registry_secret": "aws"}, {"constructor": "from_aws_ecr", "tag": ECR, "secret": "aws"}),
        ("public.ecr.aws/x/y:1", {}, {"constructor": "from_registry", "tag": "public.ecr.aws/x/y:1"}),
        (
            GOOGLE,
            {"registry_secret": "gcp"},
            {"constructor": "from_gcp_artifact_registry", "tag": GOOGLE, "secret": "gcp"},
        ),
        (GOOGLE, {}, {"constructor": "from_registry", "tag": GOOGLE}),
        ("modal:my-image", {}, {"constructor": "from_name", "name": "my-image"}),
        ("modal:dev/my.image:v1", {}, {"constructor": "from_name", "name": "dev/my.image:v1"}),
    ],
)
def test_images(image: str, settings: dict[str, Any], expected: dict[str, Any]) -> None:
    """The ENTRYPOINT of each is cleared: Modal would append the step's command to it."""
    assert image_of(image, ModalSettings(**settings)) == {**expected, "entrypoint": []}


def test_without_an_image_the_step_has_airflows_python() -> None:
    """Modal's own image has no ENTRYPOINT, and needs no build."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert image_of(None, ModalSettings()) == {"constructor": "debian_slim", "python_version": python}


@pytest.mark.parametrize(
    ("image", "settings", "text"),
    [
        ("Python:3.12", {}, "is no name of a container image"),
        ("https://ghcr.io/x", {}, "is no name of a container image"),
        ("modal:", {}, "names no published image"),
        ("modal:my image", {}, "names no published image"),
        ("modal:im-abc123", {}, "im-... is an id: publish the image under a name"),
        ("modal:x", {"registry_secret": "s"}, "registry_secret='s' is for an image in a registry"),
        ("modal:x", {"add_python": "3.12"}, "add_python='3.12' is for an image in a registry"),
        (ECR, {}, "write settings={'registry_secret': 'NAME'}"),
    ],
)
def test_what_is_no_image_is_refused_when_the_file_is_parsed(
    image: str, settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(StepConfigError, match=text):
        ModalSettings(**settings).check_with(image, None)


@pytest.mark.parametrize("settings", [{"registry_secret": "s"}, {"add_python": "3.12"}])
def test_options_of_a_registry_need_an_image(settings: dict[str, Any]) -> None:
    """Not at parse, where the connection may give the image; but the request is refused."""
    ModalSettings(**settings).check_with(None, None)
    with pytest.raises(StepConfigError, match="without image= the step runs in Modal's own image"):
        image_of(None, ModalSettings(**settings))
