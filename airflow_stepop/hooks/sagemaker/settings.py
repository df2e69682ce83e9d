"""The options of the ``sagemaker`` backend, and the field of ``CreateTrainingJob`` that each option sets.

The hook parses ``settings=`` of a task into :class:`SageMakerSettings`. Lengths and patterns are those of the
service's own model (``sagemaker/2017-07-24/service-2.json`` of botocore), since botocore itself checks
minimum lengths only. The meaning of the fields:
https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from airflow_stepop.core.reserved import OUR_ENV
from airflow_stepop.hooks.sagemaker.literals import check_literals
from airflow_stepop.hooks.sagemaker.overrides import check_overrides
from airflow_stepop.hooks.settings import BackendSettings

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

# setting -> field of the request; a test compares the fields with the service's model
FIELDS: Mapping[str, str] = {
    "role": "RoleArn",
    "instance_type": "ResourceConfig.InstanceType",
    "use_spot_instances": "EnableManagedSpotTraining",
    "max_runtime_in_seconds": "StoppingCondition.MaxRuntimeInSeconds",
    "max_wait_time_in_seconds": "StoppingCondition.MaxWaitTimeInSeconds",
    "volume_size_in_gb": "ResourceConfig.VolumeSizeInGB",
    "keep_alive_period_in_seconds": "ResourceConfig.KeepAlivePeriodInSeconds",
    "subnets": "VpcConfig.Subnets",
    "security_group_ids": "VpcConfig.SecurityGroupIds",
    "enable_network_isolation": "EnableNetworkIsolation",
    "encrypt_inter_container_traffic": "EnableInterContainerTrafficEncryption",
    "volume_kms_key": "ResourceConfig.VolumeKmsKeyId",
    "output_kms_key": "OutputDataConfig.KmsKeyId",
    "tags": "Tags",
    "input_data_s3_uri": "InputDataConfig",
    "input_mode": "AlgorithmSpecification.TrainingInputMode",
    "environment": "Environment",
    "metric_definitions": "AlgorithmSpecification.MetricDefinitions",
    "training_plan_arn": "ResourceConfig.TrainingPlanArn",
    "enable_remote_debug": "RemoteDebugConfig.EnableRemoteDebug",
    "max_retry_attempts": "RetryStrategy.MaximumRetryAttempts",
    "experiment_name": "ExperimentConfig.ExperimentName",
}
LONGEST_RUN_S = 28 * 86400  # the service's maximum for MaxRuntimeInSeconds
LONGEST_JOB_S = 30 * 86400  # ... and for the whole job, waiting included
LARGEST_VOLUME_GB = 16384  # of an EBS gp2 volume
MAX_TAGS = 50 - 10  # the other tags are those of the step
MAX_CHANNELS = 20 - 4  # the other channels carry the step
MAX_ENV_VALUE = 512
DEFAULT_CHANNEL = "training"  # of an `input_data_s3_uri` that is one address, as in the vendor's SDK
OWN_PREFIX = "stepop"  # tags and channels with this prefix belong to the step

_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+|[a-zA-Z_0-9+=,.@-]{1,64}")
_MACHINE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
# The service's \p{L}, \p{N} and \p{Z}: separators of words are allowed, line ends and tabs are not
_TAG = re.compile("[\\w \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000.:/=+\\-@]*")
_CHANNEL = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VARIABLE = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,511}")


def _pattern(expression: str, example: str) -> Callable[[str], str]:
    """Return a validator for a text that the service's pattern must match as a whole."""
    compiled = re.compile(expression)

    def check(text: str) -> str:
        if not compiled.fullmatch(text):
            raise ValueError(f"{text!r} is not valid at the service; write a value such as {example!r}")
        return text

    return check


KmsKey = Annotated[
    str,
    Field(max_length=2048),
    AfterValidator(_pattern("[a-zA-Z0-9:/_-]+", "1234abcd-12ab-34cd-56ef-1234567890ab")),
]
Subnet = Annotated[str, AfterValidator(_pattern("[-0-9a-zA-Z]{1,32}", "subnet-0a1b2c3d4e5f60718"))]
SecurityGroup = Annotated[str, AfterValidator(_pattern("[-0-9a-zA-Z]{1,32}", "sg-0a1b2c3d4e5f60718"))]
PlanArn = Annotated[
    str,
    Field(min_length=50, max_length=2048),
    AfterValidator(
        _pattern(
            "arn:aws[a-z-]*:sagemaker:[a-z0-9-]*:[0-9]{12}:training-plan/.*",
            "arn:aws:sagemaker:us-east-1:111122223333:training-plan/my-plan",
        )
    ),
]
ExperimentName = Annotated[
    str, AfterValidator(_pattern("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,119}", "my-experiment"))
]
Region = Annotated[str, AfterValidator(_pattern("[a-z]{2,4}(-[a-z]+)+-[0-9]+", "eu-west-1"))]


class SageMakerSettings(BackendSettings):
    """Options of the ``sagemaker`` backend. Keys may be written in camel case, too.

    The words in brackets name the field of ``CreateTrainingJob`` that an option sets.

    :param role: execution role of the job: an ARN, or the name of a role in the connection's account. The
        job's code has the rights of this role. The connection's ``role_arn`` is the caller's and is never the
        job's [RoleArn]
    :param region_name: region of the job; by default the connection's
    :param instance_type: machine, such as ``ml.g5.xlarge``; by default the smallest machine that fits
        ``resource_settings``. A list of at most 5: the first that has capacity [ResourceConfig.InstanceType,
        of a list ResourceConfig.InstancePreferences]
    :param use_spot_instances: run on Spot capacity, which costs less and may be taken away at any time
        [EnableManagedSpotTraining]
    :param max_runtime_in_seconds: longest run time in seconds, at most 28 days; the same as ``timeout``
        [StoppingCondition.MaxRuntimeInSeconds]
    :param max_wait_time_in_seconds: with Spot: longest time in seconds for the wait for capacity and the run
        together, at most 30 days; by default the run time and a day
        [StoppingCondition.MaxWaitTimeInSeconds]
    :param volume_size_in_gb: size of the machine's volume; by default 30, the ``disk`` of
        ``resource_settings``, or twice the size of the input. Machines with NVMe disks have no volume
        [ResourceConfig.VolumeSizeInGB]
    :param keep_alive_period_in_seconds: keep the machine for the next job in a warm pool, at most 21600. A
        warm pool costs money and needs its own quota [ResourceConfig.KeepAlivePeriodInSeconds]
    :param subnets: subnets of a VPC for the job; needs ``security_group_ids``. The VPC needs a route to S3,
        such as a gateway endpoint [VpcConfig.Subnets]
    :param security_group_ids: security groups in the VPC; needs ``subnets`` [VpcConfig.SecurityGroupIds]
    :param enable_network_isolation: no network in the step's container. Not with ``requirements``, and not
        with values that lie in another store [EnableNetworkIsolation]
    :param encrypt_inter_container_traffic: encrypt the traffic between the containers of one job
        [EnableInterContainerTrafficEncryption]
    :param volume_kms_key: id or ARN of the KMS key of the volume; not for machines with NVMe disks, which
        encrypt by themselves [ResourceConfig.VolumeKmsKeyId]
    :param output_kms_key: id, alias or ARN of the KMS key of the job's output [OutputDataConfig.KmsKeyId]
    :param tags: tags of the job: a mapping, or a list of objects with ``Key`` and ``Value``. The caller needs
        ``sagemaker:AddTags`` [Tags]
    :param input_data_s3_uri: data that the job finds in ``/opt/ml/input/data/<channel>``: a mapping from
        channel to ``s3://`` address, or one address, for the channel ``training`` [InputDataConfig]
    :param input_mode: ``File`` copies the input data before the step begins, ``FastFile`` reads a file when
        the step opens it [AlgorithmSpecification.TrainingInputMode]
    :param environment: environment variables of the step; the same as ``env=``. Whoever may describe the job
        can read them: use ``secrets=`` for secrets [Environment]
    :param metric_definitions: metrics that the service reads from the log: a mapping from name to regular
        expression, or a list of objects with ``Name`` and ``Regex``
        [AlgorithmSpecification.MetricDefinitions]
    :param training_plan_arn: reserved capacity of a training plan [ResourceConfig.TrainingPlanArn]
    :param enable_remote_debug: let people open a shell in the container with AWS Systems Manager; the role
        needs ``ssmmessages`` rights [RemoteDebugConfig.EnableRemoteDebug]
    :param max_retry_attempts: the service starts a job again this often after an internal error of its own,
        1 to 30 [RetryStrategy.MaximumRetryAttempts]
    :param experiment_name: an existing experiment that the job belongs to [ExperimentConfig.ExperimentName]
    :param overrides: further fields of ``CreateTrainingJob``, merged into the request last. Fields that carry
        the step, and fields that have a setting of their own, are refused
    :param python: interpreter in the image
    """

    location_fields: ClassVar[tuple[str, ...]] = ("region_name",)
    timeout_field: ClassVar[str] = "max_runtime_in_seconds"

    role: str | None = None
    region_name: Region | None = None
    instance_type: str | list[str] | None = None
    use_spot_instances: bool = False
    max_runtime_in_seconds: int | None = Field(default=None, ge=1, le=LONGEST_RUN_S)
    max_wait_time_in_seconds: int | None = Field(default=None, ge=1, le=LONGEST_JOB_S)
    volume_size_in_gb: int | None = Field(default=None, ge=1, le=LARGEST_VOLUME_GB)
    keep_alive_period_in_seconds: int | None = Field(default=None, ge=0, le=21600)
    subnets: list[Subnet] | None = Field(default=None, min_length=1, max_length=16)
    security_group_ids: list[SecurityGroup] | None = Field(default=None, min_length=1, max_length=5)
    enable_network_isolation: bool = False
    encrypt_inter_container_traffic: bool = False
    volume_kms_key: KmsKey | None = None
    output_kms_key: KmsKey | None = None
    tags: dict[str, str] = Field(default_factory=dict, max_length=MAX_TAGS)
    input_data_s3_uri: dict[str, str] = Field(default_factory=dict, max_length=MAX_CHANNELS)
    input_mode: Literal["File", "FastFile"] = "File"
    environment: dict[str, str] = Field(default_factory=dict, max_length=100 - len(OUR_ENV) - 10)
    metric_definitions: dict[str, str] = Field(default_factory=dict, max_length=40)
    training_plan_arn: PlanArn | None = None
    enable_remote_debug: bool = False
    max_retry_attempts: int | None = Field(default=None, ge=1, le=30)
    experiment_name: ExperimentName | None = None
    overrides: dict[str, Any] = Field(default_factory=dict)
    python: str = Field(default="python3", min_length=1, max_length=256, pattern=r"^\S+$")

    @property
    def instance_types(self) -> tuple[str, ...]:
        """The machines that the settings name, in the order of preference; empty: ``resource_settings``
        decides.
        """
        named = self.instance_type or []
        return (named,) if isinstance(named, str) else tuple(named)

    def timeout_or(self, default_s: float) -> float:
        """Return the timeout of a step for which nobody has set ``timeout``: a Spot job that names its wait
        runs no longer than this wait.
        """
        found_s = super().timeout_or(default_s)
        if self.max_runtime_in_seconds is None and self.max_wait_time_in_seconds is not None:
            found_s = min(found_s, float(self.max_wait_time_in_seconds))
        return found_s

    @field_validator("role")
    @classmethod
    def _check_role(cls, role: str | None) -> str | None:
        if role is not None and (not _ROLE.fullmatch(role) or len(role) > 2048):
            raise ValueError(
                f"{role!r} is no role; write its name, or its ARN: arn:aws:iam::111122223333:role/NAME"
            )
        return role

    @field_validator("instance_type")
    @classmethod
    def _check_machine(cls, given: str | list[str] | None) -> str | list[str] | None:
        names = [given] if isinstance(given, str) else given
        for name in names or ():
            if not _MACHINE.fullmatch(name):
                hint = f"ml.{name}" if _MACHINE.fullmatch(f"ml.{name}") else "ml.m5.xlarge"
                raise ValueError(f"{name!r} is no instance type of SageMaker; write {hint!r}")
        if names is not None and not 1 <= len(set(names)) == len(names) <= 5:
            raise ValueError("a list has 1 to 5 instance types, each once, the preferred one first")
        return names[0] if names and len(names) == 1 else given

    @field_validator("tags", mode="before")
    @classmethod
    def _as_tags(cls, given: object) -> object:
        return _by_name(given, "Key", "Value")

    @field_validator("tags")
    @classmethod
    def _check_tags(cls, tags: dict[str, str]) -> dict[str, str]:
        for key, value in tags.items():
            is_valid = 1 <= len(key) <= 128 and len(value) <= 256
            if not is_valid or not _TAG.fullmatch(key) or not _TAG.fullmatch(value):
                raise ValueError(
                    f"{key!r}: {value!r} is no tag; a key has 1 to 128 characters and a value at most 256: "
                    "letters, digits, spaces and _.:/=+-@"
                )
            _refuse_own("tag", key, ("aws:", OWN_PREFIX))
        return tags

    @field_validator("input_data_s3_uri", mode="before")
    @classmethod
    def _as_channels(cls, given: object) -> object:
        if given is None:
            return {}
        return {DEFAULT_CHANNEL: given} if isinstance(given, str) else given

    @field_validator("input_data_s3_uri")
    @classmethod
    def _check_channels(cls, channels: dict[str, str]) -> dict[str, str]:
        for channel, uri in channels.items():
            if not _CHANNEL.fullmatch(channel):
                raise ValueError(
                    f"{channel!r} is no name of a channel; use 1 to 64 letters, digits and . _ -"
                )
            _refuse_own("channel", channel, (OWN_PREFIX,))
            _check_address(channel, uri)
        return channels

    @field_validator("input_mode", mode="before")
    @classmethod
    def _no_pipe(cls, mode: object) -> object:
        if mode == "Pipe":
            raise ValueError("a step reads files, and 'Pipe' gives it none; write 'FastFile' to stream them")
        return mode

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, given: dict[str, str]) -> dict[str, str]:
        for name, value in given.items():
            if not _VARIABLE.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a variable; use letters, digits and _")
            _refuse_own("variable", name, ("STEPOP_",))
            if len(value) > MAX_ENV_VALUE:
                raise ValueError(
                    f"{name} has {len(value)} characters, and the service takes at most {MAX_ENV_VALUE}; "
                    "hand long values over as arguments of the step"
                )
        return given

    @field_validator("metric_definitions", mode="before")
    @classmethod
    def _as_metrics(cls, given: object) -> object:
        return _by_name(given, "Name", "Regex")

    @field_validator("metric_definitions")
    @classmethod
    def _check_metrics(cls, metrics: dict[str, str]) -> dict[str, str]:
        for name, expression in metrics.items():
            if not (1 <= len(name) <= 255 and 1 <= len(expression) <= 500):
                raise ValueError(f"{name!r}: a name has 1 to 255 characters, an expression 1 to 500")
        return metrics

    @field_validator("overrides")
    @classmethod
    def _check_overrides(cls, given: dict[str, Any]) -> dict[str, Any]:
        check_overrides(given, {field: name for name, field in FIELDS.items()})
        return given

    def check_with(self, image: str | None, resources: ResourceSettings | None) -> None:
        """Check the resources, and an ``instance_type`` against them."""
        check_literals(image, resources)
        if resources is not None and self.instance_types:
            from airflow_stepop.hooks.sagemaker.machines import choose

            choose(self, resources)

    @model_validator(mode="after")
    def _check_spot(self) -> Self:
        """Refuse settings that the service refuses together with Spot, or without Spot."""
        wait_s, run_s = self.max_wait_time_in_seconds, self.max_runtime_in_seconds
        if not self.use_spot_instances:
            if wait_s is not None:
                raise ValueError(
                    f"max_wait_time_in_seconds={wait_s} is the wait for Spot capacity, and this step does "
                    "not use Spot: write use_spot_instances=True beside it, or leave it out; start_timeout= "
                    "of the task limits the wait for on-demand capacity"
                )
            return self
        if wait_s is not None and run_s is not None and wait_s < run_s:
            raise ValueError(
                f"max_wait_time_in_seconds={wait_s} includes the run time and must be at least "
                f"max_runtime_in_seconds={run_s}; write max_wait_time_in_seconds={run_s} or more"
            )
        if len(self.instance_types) > 1:
            raise ValueError(
                "a list of instance types is for on-demand capacity; with use_spot_instances=True write one: "
                f"instance_type={self.instance_types[0]!r}"
            )
        if self.keep_alive_period_in_seconds:
            raise ValueError(
                f"keep_alive_period_in_seconds={self.keep_alive_period_in_seconds}: there is no warm pool of "
                "Spot machines; leave it out, or write use_spot_instances=False"
            )
        return self

    @model_validator(mode="after")
    def _check_vpc(self) -> Self:
        if bool(self.subnets) != bool(self.security_group_ids):
            missing = "security_group_ids" if self.subnets else "subnets"
            raise ValueError(f"a VPC needs subnets and security_group_ids; {missing} is missing")
        return self


def _by_name(given: object, key: str, value: str) -> object:
    """Return a list of the API's objects as a mapping, and a mapping as it is.

    :raises ValueError: an object has other keys, or a name is there twice
    """
    if given is None:
        return {}
    if not isinstance(given, list | tuple):
        return given
    found: dict[object, object] = {}
    for one in given:
        if not isinstance(one, Mapping) or set(one) != {key, value}:
            raise ValueError(f"{one!r}: write {{{key!r}: ..., {value!r}: ...}}, or a mapping")
        if one[key] in found:
            raise ValueError(f"{one[key]!r} is there twice")
        found[one[key]] = one[value]
    return found


def _refuse_own(what: str, name: str, prefixes: Iterable[str]) -> None:
    for prefix in prefixes:
        if name.lower().startswith(prefix.lower()):
            raise ValueError(f"the {what} {name!r}: names with {prefix} are reserved; use another name")


def _check_address(channel: str, uri: str) -> None:
    """Refuse an address of input data that the service cannot read."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or len(uri) > 1024:
        raise ValueError(f"{channel!r}: {uri!r} is no address in S3; write s3://bucket/folder/")
    if "//" in key:
        right = f"s3://{bucket}/" + re.sub("/+", "/", key).lstrip("/")
        raise ValueError(f"{channel!r}: the service reads no key with '//'; write {right!r}")
