"""Buckets that a sandbox sees as files: the setting ``cloud_bucket_mounts``.

``settings.py`` imports this module only for a step with such a mount.
Source: https://modal.com/docs/guide/cloud-bucket-mounts
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from airflow_stepop.hooks.modal.names import check_name

Name = Annotated[str, AfterValidator(check_name)]


class BucketMount(BaseModel):
    """A bucket that the sandbox sees as files; the fields of ``modal.CloudBucketMount``.

    :param bucket_name: name of the bucket
    :param bucket_endpoint_url: address of Cloudflare R2 or Google Cloud Storage; none for S3
    :param key_prefix: only the objects with this prefix, which ends with ``/``
    :param secret: name of a Secret in Modal with the credentials
    :param oidc_auth_role_arn: AWS role that the sandbox assumes instead
    :param read_only: the step cannot write
    :param requester_pays: the bucket's reader pays; needs ``secret``
    :param force_path_style: address objects as ``<endpoint>/<bucket>/<key>``
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bucket_name: str = Field(min_length=1)
    bucket_endpoint_url: str | None = Field(default=None, pattern="^https?://")
    key_prefix: str | None = Field(default=None, pattern="/$")
    secret: Name | None = None
    oidc_auth_role_arn: str | None = Field(default=None, pattern="^arn:aws[a-z-]*:iam::")
    read_only: bool = False
    requester_pays: bool = False
    force_path_style: bool = False

    @model_validator(mode="after")
    def _check_payer(self) -> Self:
        if self.requester_pays and self.secret is None:
            raise ValueError("requester_pays needs secret: who reads the bucket pays, so Modal must know who")
        return self


def to_mount(given: Any) -> BucketMount:
    """Return what one item of the setting says: the fields, or the name or address of a public bucket in S3.

    :raises ValueError: a field is unknown or not valid
    """
    if isinstance(given, str):
        given = {"bucket_name": given.removeprefix("s3://").rstrip("/")}
    try:
        return BucketMount.model_validate(given)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False)]
        raise ValueError(f"{'; '.join(found)} (fields: {', '.join(BucketMount.model_fields)})") from None
