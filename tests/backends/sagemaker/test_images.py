"""The image of a step: short names of AWS's images, addresses in ECR, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.sagemaker.images import Image, catalogue, resolve_image

SKLEARN = "141502667606.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-scikit-learn"
HERE = "763104351884.dkr.ecr.eu-west-1.amazonaws.com"


def resolved(image: str | None, region: str = "eu-west-1", has_gpu: bool = False, **given: Any) -> Image:
    return resolve_image(image, region, has_gpu=has_gpu, **{"python": "3.11", **given})


@pytest.mark.parametrize(
    ("image", "has_gpu", "expected", "python"),
    [
        ("pytorch:2.5", False, "pytorch-training:2.5.1-cpu-py311", "3.11"),
        ("pytorch:2.5", True, "pytorch-training:2.5.1-gpu-py311", "3.11"),
        ("pytorch:2.5.1", True, "pytorch-training:2.5.1-gpu-py311", "3.11"),
        ("pytorch:2.5-cpu", True, "pytorch-training:2.5.1-cpu-py311", "3.11"),
        ("pytorch:2.5-gpu-py311", False, "pytorch-training:2.5.1-gpu-py311", "3.11"),
        ("pytorch:2.13", True, "pytorch:2.13-cu133-amzn2023-sagemaker", ""),
        ("pytorch", True, "pytorch-training:2.5.1-gpu-py311", "3.11"),
        ("pytorch:latest", True, "pytorch-training:2.5.1-gpu-py311", "3.11"),
        ("pytorch:2-py312", True, "pytorch-training:2.9.0-gpu-py312", "3.12"),
        ("tensorflow:2.19", False, "tensorflow-training:2.19.0-cpu-py312", "3.12"),
        ("huggingface:4.49", True,
         "huggingface-pytorch-training:2.5.1-transformers4.49.0-gpu-py311-cu124-ubuntu22.04", "3.11"),
        ("autogluon:1.1", False, "autogluon-training:1.1.1-cpu-py311", "3.11"),
        ("pytorch-training:2.5.1-gpu-py311", False, "pytorch-training:2.5.1-gpu-py311", "3.11"),
        ("pytorch:2.14-cu133-amzn2023-sagemaker", False, "pytorch:2.14-cu133-amzn2023-sagemaker", ""),
        ("pytorch-training:9.9.9-gpu-py39-cu999", False, "pytorch-training:9.9.9-gpu-py39-cu999", "3.9"),
    ],
)  # fmt: skip
def test_a_short_name_of_an_image_of_aws(image: str, has_gpu: bool, expected: str, python: str) -> None:
    """By region and by machine; the log says what it stands for."""
    found = resolved(image, has_gpu=has_gpu)
    about = f" (Python {python})" if python else ""
    assert found == Image(f"{HERE}/{expected}", python, f"image {image!r} is {HERE}/{expected}{about}")


@pytest.mark.parametrize(
    ("image", "region", "expected"),
    [
        ("pytorch:2.5", "us-east-1", "763104351884.dkr.ecr.us-east-1.amazonaws.com/"),
        ("pytorch:2.5", "af-south-1", "626614931356.dkr.ecr.af-south-1.amazonaws.com/"),
        ("pytorch:2.5", "cn-north-1", "727897471807.dkr.ecr.cn-north-1.amazonaws.com.cn/"),
        ("pytorch:2.5", "us-gov-west-1", "442386744353.dkr.ecr.us-gov-west-1.amazonaws.com/"),
        ("sklearn:1.2", "eu-west-1", f"{SKLEARN}:1.2-1-"),
        ("sklearn:1.4-2-py312", "eu-west-1", f"{SKLEARN}:1.4-2-py312-cpu"),
        ("xgboost:3.0", "us-west-2", "246618743249.dkr.ecr.us-west-2.amazonaws.com/sagemaker-xgboost:3.0-5"),
    ],
)  # fmt: skip
def test_the_account_of_each_region(image: str, region: str, expected: str) -> None:
    assert resolved(image, region).uri.startswith(expected)


def test_a_name_that_leaves_a_choice_gets_airflows_python() -> None:
    """A function needs it; of a version without it, there is the one that there is."""
    assert resolved("pytorch", python="3.12").python == "3.12"
    assert resolved("pytorch:2.5", python="3.12").python == "3.11"
    assert resolved("pytorch", python="3.99").uri == f"{HERE}/pytorch:2.14-cpu-amzn2023-sagemaker"


@pytest.mark.parametrize(
    "image",
    [
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/train:1.0",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/train",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/train:1",
        "123456789012.dkr.ecr.us-gov-west-1.amazonaws.com/train:1",
        "123456789012.dkr.ecr-fips.us-east-1.amazonaws.com/train:1",
        "123456789012.dkr-ecr.eu-west-1.on.aws/train:1",
        "123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov/train:1",
        f"123456789012.dkr.ecr.eu-west-1.amazonaws.com/train@sha256:{'a' * 64}",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/docker-hub/library/python:3.12-slim",
    ],
)
def test_an_address_in_ecr_passes(image: str) -> None:
    assert resolved(image) == Image(image)


def test_the_python_of_an_address_is_read_from_its_tag() -> None:
    assert resolved(f"{HERE}/pytorch-training:2.5.1-gpu-py311").python == "3.11"


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("python:3.12-slim", "is a name of Docker Hub.*/PREFIX/library/python:3.12-slim"),
        ("myorg/x:1", "is a name of Docker Hub.*/x:1'.*/PREFIX/myorg/x:1"),
        ("pytorch/pytorch:2.5", r"is a name of Docker Hub.* did you mean 'pytorch'\?"),
        ("ghcr.io/org/x:1", "lies in the registry ghcr.io.*/PREFIX/org/x:1"),
        ("public.ecr.aws/docker/library/python:3.12", "lies in the registry public.ecr.aws"),
        ("localhost:5000/x", "lies in the registry localhost:5000"),
        ("12345.dkr.ecr.eu-west-1.amazonaws.com/x:1", "lies in the registry 12345.dkr"),
    ],
)
def test_an_image_elsewhere_is_refused_with_what_to_do(image: str, text: str) -> None:
    """Copy it, a pull-through cache, or a private registry in a VPC."""
    with pytest.raises(StepConfigError, match=text) as caught:
        resolved(image)
    for what in ("docker push", "pull-through cache", "TrainingImageConfig", "settings.subnets", "eu-west-1"):
        assert what in str(caught.value)


def test_a_private_registry_in_a_vpc_passes() -> None:
    """If ``overrides`` says so; a name without a registry is still one of Docker Hub."""
    assert resolved("registry.example.com/x:1", is_private=True).uri == "registry.example.com/x:1"
    with pytest.raises(StepConfigError, match="Docker Hub"):
        resolved("python:3.12", is_private=True)


@pytest.mark.parametrize("image", [None, ""])
def test_no_image_says_where_to_put_one(image: str | None) -> None:
    with pytest.raises(StepConfigError, match=r"stepop.image.* the extra of the connection 'aws_gpu'"):
        resolved(image, conn_id="aws_gpu")
    with pytest.raises(StepConfigError, match="write image= in the task"):
        resolved(image)


@pytest.mark.parametrize(
    ("image", "region", "has_gpu", "text"),
    [
        ("pytorch:9.9", "eu-west-1", False, "AWS has no pytorch 9.9.*versions: 2.14, 2.13"),
        ("pytorch:nightly", "eu-west-1", False, "AWS has no pytorch nightly"),
        ("huggingface:4.49", "eu-west-1", False, "none for a machine for cpu; write one of: 4.49.0-gpu"),
        ("sklearn:1.2", "eu-west-1", True, "none for a machine for gpu; write one of: 1.2-1-cpu"),
        ("pytorch:2.5-py312", "eu-west-1", False, "write one of: 2.5.1-cpu, 2.5.1-gpu"),
        ("pytorch:2.5", "xx-moon-1", False, "no pytorch-training in the region 'xx-moon-1'"),
        ("x" * 256, "eu-west-1", False, "256 characters"),
    ],
)
def test_a_short_name_that_stands_for_nothing(image: str, region: str, has_gpu: bool, text: str) -> None:
    with pytest.raises(StepConfigError, match=text):
        resolved(image, region, has_gpu)


def test_the_names_in_a_message_work() -> None:
    """What the message about a machine names can be written."""
    assert resolved("huggingface:4.49.0-gpu").uri.startswith(f"{HERE}/huggingface-pytorch-training:2.5.1-")
    assert resolved("sklearn:1.2-1-cpu", has_gpu=True).uri.endswith("sagemaker-scikit-learn:1.2-1-cpu-py3")


def test_every_row_has_a_valid_address() -> None:
    """In every region; the service's pattern and length hold."""
    count = 0
    for rows in catalogue().values():
        assert [row.numbers for row in rows] == sorted((row.numbers for row in rows), reverse=True)
        for row in rows:
            for region in row.places:
                count += 1
                uri = row.uri(region, row.tag)
                assert len(uri) <= 255
                assert resolve_image(uri, region, has_gpu=False).uri == uri
    assert count > 3000


@given(st.text(max_size=40) | st.from_regex(r"[a-z./:-]{1,20}(:[a-z0-9.-]{1,10})?", fullmatch=True))
def test_no_name_makes_another_error(image: str) -> None:
    try:
        found = resolved(image)
    except StepConfigError:
        return
    assert re.fullmatch(r"[0-9]{12}\.dkr[.-]ecr.*", found.uri)
