"""Finds the address of a step's image in Amazon ECR.

SageMaker pulls images from Amazon ECR. A short name such as ``pytorch:2.5`` stands for a training image of
AWS (Deep Learning Containers and others). Their table is ``images.json``, which
``scripts/sagemaker_images.py`` writes. Images and their contents: https://aws.github.io/deep-learning-containers/reference/available_images/
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.exceptions import StepConfigError

MAX_LENGTH = 255  # of TrainingImage
_ECR = re.compile(
    r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.[a-z0-9-]+\.[a-z0-9.-]+/[a-z0-9][a-z0-9._/-]*"
    r"(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_PYTHON = re.compile(r"-py([0-9])([0-9]{1,2})(?:-|$)")
_OPTION = re.compile(r"-(cpu|gpu|py[0-9]{2,3})$")


@dataclass(frozen=True)
class Image:
    """The image of a step.

    :param uri: its address in ECR
    :param python: the image's version of Python, such as ``3.11``, as far as its tag says; else empty. A
        function needs the version that Airflow runs with
    :param message: what a short name stands for, for the log; empty if the task gave an address
    """

    uri: str
    python: str = ""
    message: str = ""


class _Row(NamedTuple):
    version: str
    processor: str
    repository: str
    tag: str
    places: Mapping[str, list[str]]  # region -> account, suffix of the address

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(one) for one in re.findall("[0-9]+", self.version))

    @property
    def python(self) -> str:
        return _python_of(self.tag)

    def uri(self, region: str, tag: str) -> str:
        account, suffix = self.places[region]
        return f"{account}.dkr.ecr.{region}.{suffix}/{self.repository}:{tag}"


@cache
def catalogue() -> Mapping[str, tuple[_Row, ...]]:
    """Return the images of AWS: short name -> rows, newest first."""
    table: dict[str, Any] = json.loads(Path(__file__).with_name("images.json").read_text())
    places = table["places"]
    return {
        name: tuple(
            _Row(version, processor, repository, tag, places[place])
            for version, images in versions.items()
            for processor, (repository, tag, place) in images.items()
        )
        for name, versions in table["frameworks"].items()
    }


def resolve_image(
    image: str | None,
    region: str,
    has_gpu: bool,
    *,
    conn_id: str | None = None,
    is_private: bool = False,
    python: str = f"{sys.version_info[0]}.{sys.version_info[1]}",
) -> Image:
    """Return the image of a step.

    :param image: the image of the task or its connection: an address in ECR, a short name (``pytorch``,
        ``pytorch:2.5``, ``pytorch:2.5-cpu``), or a repository of AWS with its tag
        (``pytorch-training:2.5.1-gpu-py311``)
    :param has_gpu: whether the machine has GPUs
    :param conn_id: the step's connection, for the message
    :param is_private: whether ``overrides`` has a ``TrainingImageConfig`` for a private registry in a VPC
    :param python: a short name that leaves a choice gets an image with this Python, if there is one
    :raises StepConfigError: there is no image, or the service cannot pull it; the message says what to do
    """
    if not image:
        raise StepConfigError(_no_image(conn_id))
    if len(image) > MAX_LENGTH:
        raise StepConfigError(f"image= has {len(image)} characters, and SageMaker takes at most {MAX_LENGTH}")
    if _ECR.fullmatch(image):
        return Image(image, _python_of(image.partition(":")[2]))
    if (found := _image_of_aws(image, region, "gpu" if has_gpu else "cpu", python)) is not None:
        about = f" (Python {found.python})" if found.python else ""
        return replace(found, message=f"image {image!r} is {found.uri}{about}")
    if is_private and _has_host(image):
        return Image(image)
    raise StepConfigError(_elsewhere(image, region))


def _image_of_aws(image: str, region: str, processor: str, python: str) -> Image | None:
    """Return the image of AWS that a short name, or a repository with a tag, stands for; else ``None``."""
    name, _, version = image.partition(":")
    for row in (row for rows in catalogue().values() for row in rows if row.repository == name):
        if version == row.tag or (version and name not in catalogue()):
            return Image(_uri(row, image, region, version), _python_of(version))
    if name not in catalogue():
        return None
    row = _choose(name, version, region, processor, python)
    return Image(_uri(row, image, region, row.tag), row.python)


def _choose(name: str, version: str, region: str, processor: str, python: str) -> _Row:
    """Return the newest image of a short name; of those, one with the given Python if there is one."""
    wanted, options = _parse(version)
    rows = [row for row in catalogue()[name] if row.numbers[: len(wanted)] == wanted]
    if not rows:
        versions = list(dict.fromkeys(row.version for row in catalogue()[name]))
        guess = did_you_mean(version, versions)
        raise StepConfigError(
            f"image={f'{name}:{version}'!r}: AWS has no {name} {version}{guess}; "
            f"versions: {', '.join(versions)}"
        )
    processors = [one for one in options if one in ("cpu", "gpu")] or [processor]
    pythons = [f"{one[2]}.{one[3:]}" for one in options if one.startswith("py")]
    found = [row for row in rows if row.processor in processors and (not pythons or row.python in pythons)]
    if not found:
        have = ", ".join(f"{row.version}-{row.processor}" for row in rows[:6])
        asked = "-".join([*processors, *options[1:]]) if options else f"a machine for {processor}"
        raise StepConfigError(
            f"image={f'{name}:{version}'!r}: there is none for {asked}; write one of: {have}"
        )
    here = [row for row in found if region in row.places] or found
    return next((row for row in here if row.python == python), here[0])


def _parse(version: str) -> tuple[tuple[int, ...], list[str]]:
    """Return the numbers of a version, and what follows them: ``2.5-gpu-py311``."""
    options: list[str] = []
    while (found := _OPTION.search(f"-{version}")) is not None:
        options.insert(0, found[1])
        version = f"-{version}"[: found.start()].removeprefix("-")
    if version in ("", "latest"):
        return (), options
    if not re.fullmatch(r"[0-9]+(?:[.-][0-9]+)*", version):
        return (-1,), options
    return tuple(int(one) for one in re.findall("[0-9]+", version)), options


def _uri(row: _Row, image: str, region: str, tag: str) -> str:
    if region not in row.places:
        raise StepConfigError(
            f"image={image!r}: AWS has no {row.repository} in the region {region!r}; write the full address "
            f"of an image, or use one of: {', '.join(row.places)}"
        )
    return row.uri(region, tag)


def _python_of(tag: str) -> str:
    found = _PYTHON.search(tag)
    return f"{found[1]}.{found[2]}" if found else ""


def _has_host(image: str) -> bool:
    """Return whether a name begins with a registry: ``registry.example.com/x``, ``localhost:5000/x``."""
    host, slash, _ = image.partition("/")
    return bool(slash) and ("." in host or ":" in host)


def _no_image(conn_id: str | None) -> str:
    where = f"the connection {conn_id!r}" if conn_id else "its connection"
    return (
        'backend \'sagemaker\' has no image for the step: write image= in the task, or "stepop": {"image": '
        f"...}} (stepop.image) into the extra of {where}; for example 'pytorch:2.5', or the address of your "
        "own image in Amazon ECR"
    )


def _elsewhere(image: str, region: str) -> str:
    """Return why an image cannot be pulled: it lies in another registry, such as Docker Hub."""
    own = f"111122223333.dkr.ecr.{region}.amazonaws.com"
    if _has_host(image):
        host, _, path = image.partition("/")
        where, cached = f"lies in the registry {host}", path
    else:
        where, cached = "is a name of Docker Hub", image if "/" in image else f"library/{image}"
    name = image.partition(":")[0].rpartition("/")[2]
    guess = did_you_mean(name, catalogue())
    return (
        f"image={image!r} {where}, and SageMaker pulls from Amazon ECR{guess}. Copy it there (docker tag, "
        f"docker push) and write image='{own}/{image.rpartition('/')[2]}'; or create a pull-through cache "
        f"rule in ECR and write image='{own}/PREFIX/{cached}'; or, for a private registry that a VPC "
        "reaches, set settings.subnets, settings.security_group_ids and overrides={'AlgorithmSpecification': "
        "{'TrainingImageConfig': {'TrainingRepositoryAccessMode': 'Vpc'}}}. Images of AWS have short names: "
        f"{', '.join(catalogue())}"
    )
