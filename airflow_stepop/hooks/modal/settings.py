"""The options of the ``modal`` backend, and the argument of ``modal.Sandbox.create`` that each option sets.

The hook parses ``settings=`` of a task into :class:`ModalSettings`. The meaning of the arguments:
https://modal.com/docs/sdk/py/latest/modal.Sandbox
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from airflow_stepop.hooks.modal import names
from airflow_stepop.hooks.modal.gpus import ANY, parse_gpu
from airflow_stepop.hooks.modal.literals import check_literals
from airflow_stepop.hooks.modal.not_settings import NOT_SETTINGS
from airflow_stepop.hooks.modal.sizes import as_cpu, as_memory
from airflow_stepop.hooks.settings import BackendSettings

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.buckets import BucketMount
    from airflow_stepop.resources import ResourceSettings

# setting -> argument of modal.Sandbox.create; a test compares the arguments with the SDK's signature
FIELDS: Mapping[str, str] = {
    "gpu": "gpu",
    "cpu": "cpu",
    "memory": "memory",
    "timeout": "timeout",
    "region": "region",
    "cloud": "cloud",
    "app_name": "app",
    "volumes": "volumes",
    "secrets": "secrets",
    "cloud_bucket_mounts": "volumes",
    "block_network": "block_network",
    "outbound_cidr_allowlist": "outbound_cidr_allowlist",
    "outbound_domain_allowlist": "outbound_domain_allowlist",
    "proxy": "proxy",
    "registry_secret": "image",
    "add_python": "image",
    "workdir": "workdir",
    "tags": "tags",
    "verbose": "verbose",
}
LONGEST_S = 86400  # of a sandbox: https://modal.com/docs/guide/sandboxes

Name = Annotated[str, AfterValidator(names.check_name)]
Cidr = Annotated[str, AfterValidator(names.check_cidr)]
Domain = Annotated[str, AfterValidator(names.check_domain)]
Mount = Annotated[str, AfterValidator(names.check_mount)]


def _as_buckets(given: Mapping[str, Any]) -> Mapping[str, BucketMount]:
    if not given:
        return given
    from airflow_stepop.hooks.modal.buckets import to_mount

    return {path: to_mount(one) for path, one in given.items()}


Buckets = Annotated[dict[Mount, Any], AfterValidator(_as_buckets)]


class ModalSettings(BackendSettings):
    """Options of the ``modal`` backend. Keys may be written in camel case, too.

    The words in brackets name the argument of ``modal.Sandbox.create`` that an option sets.

    :param gpu: kind and number of GPUs, such as ``T4`` or ``A100-80GB:2``, or ``any``: the cheapest kind that
        fits. A list is an order of preference: each kind waits ``start_timeout``, by default 10 minutes, and
        then the next is tried [gpu]
    :param cpu: physical cores (one is two vCPUs), at least 0.125, or a pair: request and limit [cpu]
    :param memory: MiB of memory, at least 128, or a pair: request and limit. One number is both [memory]
    :param timeout: longest run time in seconds, at most 24 hours; the same as ``timeout`` of the task
        [timeout]
    :param region: where the sandbox runs, such as ``us`` or ``eu-west``, or a list: in any of them. A region
        costs more [region]
    :param cloud: ``aws``, ``gcp``, ``oci`` or ``auto`` [cloud]
    :param environment: environment of the workspace; by default the connection's
    :param app_name: App in which the sandboxes run. It is created when needed [app]
    :param volumes: mount path -> name of a Volume, which must exist [volumes]
    :param secrets: names of Secrets in Modal. The step gets them as environment variables [secrets]
    :param cloud_bucket_mounts: mount path -> bucket, with the fields of ``modal.CloudBucketMount``
        (``bucket_name``, ``secret``, ``read_only``, ...), or the name of a public bucket in S3 [volumes]
    :param block_network: no network in the sandbox. Not with ``requirements``, and not with values that lie
        in a bucket [block_network]
    :param outbound_cidr_allowlist: the step reaches these networks only [outbound_cidr_allowlist]
    :param outbound_domain_allowlist: the step reaches these domains only; ``*.example.com`` includes those
        below [outbound_domain_allowlist]
    :param proxy: name of a Proxy, through which the step reaches the internet from a fixed address [proxy]
    :param registry_secret: name of a Secret in Modal with the credentials of the image's registry [image]
    :param add_python: version of Python, such as ``3.12``, that Modal adds to an image without it [image]
    :param workdir: current folder of the step, created if it does not exist; by default the image's [workdir]
    :param tags: tags of the sandbox, for people and for cost reports [tags]
    :param verbose: Modal logs more about the sandbox [verbose]
    :param python: interpreter in the image
    """

    location_fields: ClassVar[tuple[str, ...]] = ("environment", "app_name")
    timeout_field: ClassVar[str] = "timeout"
    not_settings: ClassVar[Mapping[str, str]] = NOT_SETTINGS

    gpu: str | list[str] | None = None
    cpu: Annotated[float | tuple[float, float] | None, BeforeValidator(as_cpu)] = None
    memory: Annotated[int | tuple[int, int] | None, BeforeValidator(as_memory)] = None
    timeout: int | None = Field(default=None, ge=1, le=LONGEST_S)
    region: str | list[str] | None = None
    cloud: Literal["aws", "gcp", "oci", "auto"] | None = None
    environment: Annotated[str, AfterValidator(names.check_environment)] | None = None
    app_name: Name = "airflow-stepop"
    volumes: dict[Mount, Name] = Field(default_factory=dict)
    secrets: list[Name] = Field(default_factory=list)
    cloud_bucket_mounts: Buckets = Field(default_factory=dict)
    block_network: bool = False
    outbound_cidr_allowlist: list[Cidr] | None = None
    outbound_domain_allowlist: list[Domain] | None = None
    proxy: Name | None = None
    registry_secret: Name | None = None
    add_python: str | None = Field(default=None, pattern=r"^3\.[0-9]{1,2}t?$")
    workdir: str | None = Field(default=None, pattern="^/")
    tags: dict[str, str] = Field(default_factory=dict)
    verbose: bool = False
    python: str = Field(default="python3", min_length=1, max_length=256, pattern=r"^\S+$")

    @property
    def gpus(self) -> tuple[str, ...]:
        """What ``gpu`` names, in the order of preference; empty: ``resource_settings`` decide."""
        named = self.gpu or []
        return (named,) if isinstance(named, str) else tuple(named)

    @property
    def alternatives(self) -> tuple[str, ...]:
        return self.gpus if len(self.gpus) > 1 else ()

    def at_alternative(self, index: int) -> Self:
        if not self.alternatives:
            return self
        return self.model_copy(update={"gpu": self.gpus[min(index, len(self.gpus) - 1)]})

    def timeout_or(self, default_s: float) -> float:
        """Return the timeout of a step for which nobody has set ``timeout``. A default of Airflow above 24
        hours is that of other backends, so the step gets 24 hours.
        """
        return min(super().timeout_or(default_s), float(LONGEST_S))

    @field_validator("gpu")
    @classmethod
    def _check_gpu(cls, given: str | list[str] | None) -> str | list[str] | None:
        if given is None or isinstance(given, str):
            return None if given is None else str(parse_gpu(given))
        found = [str(parse_gpu(one)) for one in given]
        if not found or len(set(found)) < len(found):
            raise ValueError("a list has one kind or more, each once, the preferred one first")
        if len(found) > 1 and any(one.partition(":")[0] == ANY for one in found):
            raise ValueError(f"{ANY!r} stands alone: a list names the kinds that are tried in order")
        return found[0] if len(found) == 1 else found

    @field_validator("region")
    @classmethod
    def _check_region(cls, given: str | list[str] | None) -> str | list[str] | None:
        for one in [given] if isinstance(given, str) else given or []:
            names.check_region(one)
        if given == []:
            raise ValueError("a list has one region or more; leave region out for any region")
        return given

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: dict[str, str]) -> dict[str, str]:
        for key, value in tags.items():
            names.check_tag(key, value)
        return tags

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        both = ("outbound_cidr_allowlist", "outbound_domain_allowlist")
        lists = [name for name in both if getattr(self, name) is not None]
        if self.block_network and lists:
            raise ValueError(
                f"block_network=True leaves no network for {' and '.join(lists)}; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_mounts(self) -> Self:
        twice = sorted(set(self.volumes) & set(self.cloud_bucket_mounts))
        if twice:
            raise ValueError(f"volumes and cloud_bucket_mounts both have {', '.join(twice)}")
        for path, volume in self.volumes.items():
            if volume in names.JOB_VOLUMES:
                raise ValueError(
                    f"volumes: {path}: the Volume {volume!r} carries the steps themselves, and a step must "
                    "not see those of others; use another Volume"
                )
            if list(self.volumes.values()).count(volume) > 1:
                raise ValueError(f"volumes: Modal mounts a Volume once, and {volume!r} is there twice")
        return self

    def check_with(self, image: str | None, resources: ResourceSettings | None) -> None:
        """Check the image and the resources, and the settings against them."""
        check_literals(image, resources)
        if image is not None:
            from airflow_stepop.hooks.modal.images import image_of

            image_of(image, self)
        if resources is not None:
            from airflow_stepop.hooks.modal.resources import resources_of

            resources_of(self, resources)
