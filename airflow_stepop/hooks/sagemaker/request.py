"""Builds the CreateTrainingJob request of a step. ``hook.py`` sends it.

The functions are pure: they send no request. The constants name the paths, channels and variables that the
other modules of this backend read.

Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_CreateTrainingJob.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_stepop.connections.aws_clients import partition_of
from airflow_stepop.core.naming import nonce_hash
from airflow_stepop.core.stored_json import parsed_json
from airflow_stepop.exceptions import IntegrityError, OutcomeLostError, StepConfigError, UnsupportedError
from airflow_stepop.hooks.common.runner_command import runner_argv, step_env
from airflow_stepop.hooks.common.sealing import seal_keys
from airflow_stepop.hooks.sagemaker.images import Image, resolve_image
from airflow_stepop.hooks.sagemaker.limits import stopping_condition
from airflow_stepop.hooks.sagemaker.machines import Choice
from airflow_stepop.hooks.sagemaker.overrides import with_overrides
from airflow_stepop.hooks.sagemaker.places import (
    CHANNEL,
    CHECKPOINTS,
    EXPORTED,
    FAILURE_FILE,
    INPUT,
    OUTPUT,
    PARTS_CHANNEL,
    Places,
)
from airflow_stepop.runner.protocol import ENV_NONCE

if TYPE_CHECKING:
    from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings
    from airflow_stepop.job import StepSpec

Json = dict[str, Any]

STARTED = f"{CHECKPOINTS}/stepop-started"  # the marker of the start-once guard
GRACE_S = 110  # of the 120 s between SIGTERM and SIGKILL; the runner writes its receipt in the rest
RECEIPT_LIMIT = 400  # of a line with the digest alone: the outcome itself does not go into the log

ENV_ABOUT = "STEPOP_ABOUT"  # variables STEPOP_ABOUT_0, ...: JSON that finds the job's data again
ENV_VALUE, ENV_ENTRIES = 512, 100  # longest value, most variables
TAG_KEY = "stepop:{}"
TAG_VALUE = 256


@dataclass(frozen=True)
class Submitted:
    """What only a submit knows. ``render`` shows the defaults instead.

    :param digest: SHA-256 of the manifest
    :param input_address: address in S3 of the staged input
    :param parts_manifest: address in S3 of the list of large parts; empty: there are none
    :param runner_digest: SHA-256 of ``step.pyz``
    :param seal: key of the sealed files, in hex
    :param account: number of the account, for a role that is given by its name
    :param has_secrets: there are sealed files. A later submit of the same step has them, too
    """

    digest: str
    input_address: str
    parts_manifest: str = ""
    runner_digest: str = "<digest of step.pyz>"
    seal: str = "<key of the sealed files>"
    account: str = "<account>"
    has_secrets: bool = True


def training_job(
    spec: StepSpec,
    settings: SageMakerSettings,
    places: Places,
    submitted: Submitted,
    choice: Choice,
    region: str,
) -> Json:
    """Return the request.

    :param choice: the machine of the job
    :raises UnsupportedError: a variable that a training job cannot have
    :raises StepConfigError: a setting contradicts another argument, or is missing
    """
    request: Json = {
        "TrainingJobName": spec.name,
        "RoleArn": role_arn(settings.role, region, submitted.account),
        "AlgorithmSpecification": _algorithm(spec, settings, places, submitted, region, choice),
        "InputDataConfig": _channels(settings, submitted),
        "OutputDataConfig": {
            "S3OutputPath": places.native(places.results).rpartition("/")[0],
            "CompressionType": "NONE",
            **_given(KmsKeyId=settings.output_kms_key),
        },
        "ResourceConfig": _resources(settings, choice),
        "StoppingCondition": stopping_condition(
            settings,
            spec.timeout_s,
            start_timeout_s=spec.start_timeout_s,
            is_accelerated=choice.is_accelerated,
        ),
        "Environment": _environment(spec, settings, places),
        "Tags": _tags(spec.labels, settings.tags),
        **_options(settings, places),
    }
    return with_overrides(request, settings.overrides)


def role_arn(role: str | None, region: str, account: str) -> str:
    """Return the ARN of the job's role.

    :param role: an ARN, or the name or path of a role in ``account``
    :raises StepConfigError: there is none
    """
    if not role:
        raise StepConfigError(
            "a training job needs a role, with which it reads its input and writes its result: set "
            'settings={\'role\': \'arn:aws:iam::...:role/...\'}, or "stepop": {"settings": {"role": ...}} in '
            "the extra of the connection. The role_arn of the connection itself is Airflow's, and is not the "
            "job's"
        )
    return (
        role
        if role.startswith("arn:")
        else f"arn:{partition_of(region)}:iam::{account}:role/{role.lstrip('/')}"
    )


def _algorithm(
    spec: StepSpec,
    settings: SageMakerSettings,
    places: Places,
    submitted: Submitted,
    region: str,
    choice: Choice,
) -> Json:
    image = image_of(spec, settings, region, choice)
    first, *rest = _command(spec, settings, places, submitted)
    return {
        "TrainingImage": image.uri,
        "TrainingInputMode": settings.input_mode,
        "ContainerEntrypoint": [first],
        "ContainerArguments": rest,
        **_given(MetricDefinitions=_metrics(settings)),
    }


def image_of(spec: StepSpec, settings: SageMakerSettings, region: str, choice: Choice) -> Image:
    """Return the step's image.

    :raises StepConfigError: there is none, or SageMaker cannot pull it
    """
    algorithm = settings.overrides.get("AlgorithmSpecification") or {}
    is_private = "TrainingImageConfig" in algorithm
    return resolve_image(spec.image, region, choice.is_accelerated, is_private=is_private)


def _command(spec: StepSpec, settings: SageMakerSettings, places: Places, submitted: Submitted) -> list[str]:
    is_guarded = bool(places.checkpoints)
    return runner_argv(
        settings.python,
        spec,
        inputs=INPUT,
        outputs=OUTPUT,
        digest=submitted.digest,
        runner_digest=submitted.runner_digest,
        receipt="-",
        receipt_limit=RECEIPT_LIMIT,
        failure=FAILURE_FILE,
        mounted=1,
        seal=submitted.seal,
        sign=1,
        started=STARTED if is_guarded else None,
        job_id="env:TRAINING_JOB_NAME" if is_guarded else None,
        kept=":".join(EXPORTED) if is_guarded and not settings.output_kms_key else None,
        timeout=spec.timeout_s,
        grace=GRACE_S,
    )


def is_ours(job: Mapping[str, Any], nonce: str) -> bool:
    """Return whether this deployment has made the request of a job, for the submit with this nonce.

    Whoever may create training jobs can use the job's name and its nonce, which Airflow shows. The key of the
    sealed files is in our request only.

    :param job: the whole record
    """
    command = _arguments(job)
    return (job.get("Environment") or {}).get(ENV_NONCE) == nonce and any(
        key.hex() in command for key in seal_keys(nonce)
    )


def signed_nonce(job: Mapping[str, Any]) -> str | None:
    """Return the nonce of a job whose runner signs its receipts; ``None`` for a job of an earlier version.

    :param job: the whole record
    :raises OutcomeLostError: this deployment has not made the request of the job. A job's name has a hash of
        its nonce, so the nonce of another job counts for nothing
    """
    nonce, name = str((job.get("Environment") or {}).get(ENV_NONCE) or ""), str(job["TrainingJobName"])
    if not name.endswith(f"-{nonce_hash(nonce)}") or not is_ours(job, nonce):
        raise OutcomeLostError(
            f"the training job {name} is not the one that was submitted, or the keys of this Airflow were "
            "replaced since: see its page in the AWS console for who created it, and keep a replaced key in "
            "[stepop] signing_key. Clear the task to run the step again"
        )
    return nonce if "--sign" in _arguments(job) else None


def _arguments(job: Mapping[str, Any]) -> Sequence[str]:
    found: Sequence[str] = (job.get("AlgorithmSpecification") or {}).get("ContainerArguments") or ()
    return found


def _resources(settings: SageMakerSettings, choice: Choice) -> Json:
    first, *others = choice.instance_types
    if others:  # the first of them that has capacity; excludes InstanceType and InstanceCount
        named = [{"InstanceType": name, "InstanceCount": 1} for name in choice.instance_types]
        machine: Json = {"InstancePreferences": named}
    else:
        machine = {"InstanceType": first, "InstanceCount": 1}
    return {
        **machine,
        "VolumeSizeInGB": choice.volume_gb,
        **_given(
            VolumeKmsKeyId=settings.volume_kms_key,
            KeepAlivePeriodInSeconds=settings.keep_alive_period_in_seconds,
            TrainingPlanArn=settings.training_plan_arn,
        ),
    }


def _channels(settings: SageMakerSettings, submitted: Submitted) -> list[Json]:
    own = [_channel(CHANNEL, f"{submitted.input_address}/", "S3Prefix", "File")]
    if submitted.parts_manifest:
        own.append(_channel(PARTS_CHANNEL, submitted.parts_manifest, "ManifestFile", "File"))
    given = settings.input_data_s3_uri
    return [*own, *(_channel(name, uri, "S3Prefix", settings.input_mode) for name, uri in given.items())]


def _channel(name: str, uri: str, kind: str, mode: str) -> Json:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": mode}


def _environment(spec: StepSpec, settings: SageMakerSettings, places: Places) -> dict[str, str]:
    """Return the variables of the container.

    DescribeTrainingJob shows them, so no secret is among them. They also hold what finds the job's data
    again.
    """
    given = {**settings.environment, **step_env(spec)}
    about = {"labels": dict(spec.labels), "results": places.result_uri, "inputs": places.folder_uri}
    text = json.dumps(about, separators=(",", ":"), sort_keys=True)
    pieces = [text[begin : begin + ENV_VALUE] for begin in range(0, len(text), ENV_VALUE)]
    found = {**given, **{f"{ENV_ABOUT}_{index}": piece for index, piece in enumerate(pieces)}}
    for name, value in given.items():
        if len(value) > ENV_VALUE:
            raise UnsupportedError(
                f"env: {name} has {len(value)} characters, and a training job's variables have at most "
                f"{ENV_VALUE}; pass it as an argument of the step, or by secrets="
            )
        if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
            raise UnsupportedError(f"env: {name!r} is no name that a training job's variable may have")
    if len(found) > ENV_ENTRIES:
        raise UnsupportedError(
            f"env: a training job has at most {ENV_ENTRIES} variables, and this step has {len(found)}, "
            f"{len(pieces) + 2} of airflow-stepop; pass some by secrets="
        )
    return found


def about(environment: Mapping[str, str]) -> Json | None:
    """Return what :func:`_environment` has put into a job's variables; ``None`` if that is not there."""
    pieces: list[str] = []
    while (piece := environment.get(f"{ENV_ABOUT}_{len(pieces)}")) is not None:
        pieces.append(piece)
    try:
        found = parsed_json("".join(pieces), ENV_ABOUT)
    except IntegrityError:
        return None
    labels = found.get("labels") if isinstance(found, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        return None  # whoever may create training jobs can write such variables
    return found if all(isinstance(found.get(key), str) for key in ("results", "inputs")) else None


def _tags(labels: Mapping[str, str], given: Mapping[str, str]) -> list[Json]:
    """Return the labels as tags, for people and for cost reports; a value is cut to what a tag can hold."""
    own = {
        TAG_KEY.format(name.replace("_", "-")): _tag_value(value)
        for name, value in labels.items()
        if value and (name, value) != ("map_index", "-1")
    }
    found = {**own, **given}
    return [{"Key": key, "Value": value} for key, value in found.items()]


def _tag_value(value: str) -> str:
    """Tags take letters, spaces, numbers and ``_.:/=+-@`` of any language."""
    return re.sub(r"[^\w .:/=+\-@]", "_", value)[:TAG_VALUE]


def _options(settings: SageMakerSettings, places: Places) -> Json:
    """Return the fields that are left out where they are not asked for."""
    checkpoints = {"S3Uri": f"{places.native(places.checkpoints)}/", "LocalPath": CHECKPOINTS}
    vpc = {"Subnets": settings.subnets, "SecurityGroupIds": settings.security_group_ids}
    attempts, experiment = settings.max_retry_attempts, settings.experiment_name
    found = {
        "EnableManagedSpotTraining": settings.use_spot_instances or None,
        "CheckpointConfig": checkpoints if places.checkpoints else None,
        "VpcConfig": vpc if settings.subnets else None,
        "EnableNetworkIsolation": settings.enable_network_isolation or None,
        "EnableInterContainerTrafficEncryption": settings.encrypt_inter_container_traffic or None,
        "RetryStrategy": {"MaximumRetryAttempts": attempts} if attempts else None,
        "RemoteDebugConfig": {"EnableRemoteDebug": True} if settings.enable_remote_debug else None,
        "ExperimentConfig": {"ExperimentName": experiment} if experiment else None,
    }
    return _given(**found)


def may_restart(settings: SageMakerSettings) -> bool:
    """Return whether the service may start the job's container again by itself."""
    return bool(settings.use_spot_instances or settings.max_retry_attempts)


def _metrics(settings: SageMakerSettings) -> Sequence[Json] | None:
    if not settings.metric_definitions:
        return None
    return [{"Name": name, "Regex": pattern} for name, pattern in settings.metric_definitions.items()]


def _given(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
