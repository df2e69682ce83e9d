"""Errors of the API, and the texts that several modules use.

Texts that were seen in answers of the real service stand in ``failure_texts.json`` of the collected samples
and in public reports. A text marked "inferred" was never seen; no client may depend on it.
"""

from __future__ import annotations


class ApiError(Exception):
    """An answer that is no success: ``{"__type": CODE, "message": TEXT}`` with an HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message, self.status = code, message, status


def invalid(message: str) -> ApiError:
    """Return the error that SageMaker uses for nearly everything."""
    return ApiError("ValidationException", message)


def not_emulated(what: str) -> ApiError:
    """Return an error of the emulator itself, which no client can take for an answer of the service."""
    return ApiError("NotEmulated", f"The emulator does not know {what}", 501)


NOT_FOUND = "Requested resource not found."
QUOTA = (
    "The account-level service limit '{quota}' is {limit} Instances, with current utilization of {used} "
    "Instances and a request delta of {delta} Instances. Please contact AWS support to request an increase "
    "for this limit."
)
NO_CAPACITY = (
    "CapacityError: Unable to provision requested ML compute capacity. "
    "Please retry using a different ML instance type."
)
INTERNAL = "InternalServerError: We encountered an internal error. Please try again."
OUT_OF_MEMORY = (
    "ClientError: Please use an instance type with more memory, or reduce the size of job data "
    "processed on an instance."
)
CANNOT_ASSUME = (
    "Could not assume role {role}. Please ensure that the role exists and allows principal "
    "'sagemaker.amazonaws.com' to assume the role."
)
NO_REPOSITORY = (
    "Cannot find repository: {repository} in registry ID: {registry} Please check if your ECR repository "
    "exists and role {role} has proper pull permissions for SageMaker: ecr:BatchCheckLayerAvailability, "
    "ecr:BatchGetImage, ecr:GetDownloadUrlForLayer"
)
NO_OBJECTS = (
    'No S3 objects found under S3 URL "{url}" given in input data source. Please ensure that the bucket '
    "exists in the selected region ({region}), that objects exist under that S3 prefix, and that the role "
    '"{role}" has "s3:ListBucket" permissions on bucket "{bucket}".'
)
MAY_NOT_LIST = (
    'Unauthorized to List objects under S3 URL "{url}". Please ensure that the role "{role}" has '
    '"s3:ListBucket" permissions on bucket "{bucket}". Error message from S3: Access Denied'
)
