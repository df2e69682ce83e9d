"""CreateTrainingJob looks at the world before it answers: role, image, input, output, quota.

Known from public reports: the role can be assumed, the repository exists and may be read, objects lie under
each input prefix, the output bucket may be written, and the account's quota has room. Texts:
``failure_texts.json`` and errors.py.
"""

from __future__ import annotations

import re
from typing import Any

from tests.emulators.sagemaker.errors import (
    CANNOT_ASSUME,
    MAY_NOT_LIST,
    NO_OBJECTS,
    NO_REPOSITORY,
    QUOTA,
    ApiError,
    invalid,
    not_emulated,
)
from tests.emulators.sagemaker.iam import Role
from tests.emulators.sagemaker.images import Image
from tests.emulators.sagemaker.jobs import Job
from tests.emulators.sagemaker.storage import DeniedError, split_url
from tests.emulators.sagemaker.world import World

Json = dict[str, Any]
INVALID_IMAGE = (
    "Invalid training image. Please provide a valid Amazon Elastic Container Registry path of the "
    "Docker image to run."
)
OTHER_REGISTRY = (
    "TrainingImageConfig with TrainingRepositoryAccessMode set to VPC must be provided when using a "
    "training image from a private Docker registry."
)
PULL = ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer")


class SyncChecks:
    """The checks of one request, in the order in which they run here; the real order is not known."""

    def __init__(self, world: World, region: str, request: Json) -> None:
        self._world, self._region, self._request = world, region, request
        self._role: Role = world.iam.roles.get(request["RoleArn"]) or Role(request["RoleArn"], (), ())

    def run(self) -> None:
        self._check_role()
        self._check_image(self._request["AlgorithmSpecification"])
        for channel in self._request.get("InputDataConfig", []):
            self._check_input(channel["DataSource"]["S3DataSource"]["S3Uri"])
        self._check_output(self._request["OutputDataConfig"]["S3OutputPath"])

    def _check_role(self) -> None:
        if "sagemaker.amazonaws.com" not in self._role.trusts:
            raise invalid(CANNOT_ASSUME.format(role=self._role.arn))

    def _check_image(self, algorithm: Json) -> None:
        name = algorithm["TrainingImage"]
        image = Image.parse(name)
        config = algorithm.get("TrainingImageConfig", {})
        if config.get("TrainingRepositoryAccessMode") == "Vpc":
            raise not_emulated("images of a registry in a VPC")
        if image is None:
            # A host before the first slash is another registry; Docker Hub names have none
            elsewhere = "." in name.partition("/")[0] and "/" in name
            raise invalid(OTHER_REGISTRY if elsewhere else INVALID_IMAGE)
        readable = all(self._role.may(action, image.arn) for action in PULL)
        if image.repository not in self._world.repositories or not readable:
            where = {"repository": image.name, "registry": image.account, "role": self._role.arn}
            raise invalid(NO_REPOSITORY.format(**where))
        if self._world.settings.tag_missing == "sync" and not image.has_tag(self._world.repositories):
            raise invalid(f"Cannot find the requested image: {name}")

    def _check_input(self, url: str) -> None:
        if self._world.s3 is None:
            return
        bucket, prefix = split_url(url)
        prefix = re.sub("/+", "/", prefix)  # a server that keeps objects in files has no others
        told = {"url": url, "role": self._role.arn, "bucket": bucket, "region": self._region}
        try:
            found = next(self._world.s3.of(self._role).keys(bucket, prefix), None)
        except DeniedError:
            raise invalid(MAY_NOT_LIST.format(**told)) from None
        if found is None:
            raise invalid(NO_OBJECTS.format(**told))

    def _check_output(self, url: str) -> None:
        if self._world.s3 is None:
            return
        bucket, prefix = split_url(url)
        s3 = self._world.s3.of(self._role)
        key = f"{prefix.rstrip('/')}/{self._request['TrainingJobName']}/output/".lstrip("/")
        if not s3.has_bucket(bucket) or not s3.may_put(bucket, key + "model.tar.gz"):
            raise invalid(f"Access denied to OutputDataConfig S3 bucket: {bucket}")

    def check_quota(self) -> None:
        """Raise ``ResourceLimitExceeded``; the caller holds the world's lock until the job is added."""
        wanted = Job(self._region, self._request, self._world.settings)
        quota = quota_name(wanted)
        limit = self._world.settings.quotas.get(quota)
        if limit is None:
            limit = self._world.settings.quotas.get(wanted.instance_type, self._world.settings.default_quota)
        used = sum(
            job.instance_count
            for job in self._world.all_jobs()
            if not job.is_terminal and job.region == self._region and quota_name(job) == quota
        )
        if limit is not None and used + wanted.instance_count > limit:
            numbers = {"limit": limit, "used": used, "delta": wanted.instance_count}
            raise ApiError("ResourceLimitExceeded", QUOTA.format(quota=quota, **numbers))


def quota_name(job: Job) -> str:
    """Return the name of the quota that a job uses, as Service Quotas lists it."""
    return f"{job.instance_type} for {'spot ' if job.is_spot else ''}training job usage"
