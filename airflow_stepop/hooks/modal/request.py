"""Builds the request of a step: what its sandbox is made of, as plain JSON. ``render`` shows it.

The functions are pure. The JSON has names where Modal has objects; ``objects.py`` makes the arguments of
``modal.Sandbox.create`` from it. The constants are paths that the other modules of this backend read.

Source: https://modal.com/docs/sdk/py/latest/modal.Sandbox
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.naming import nonce_hash
from airflow_stepop.exceptions import UnsupportedError
from airflow_stepop.hooks.common.runner_command import runner_argv, step_env
from airflow_stepop.hooks.modal.images import image_of
from airflow_stepop.hooks.modal.limits import GRACE_S, Times, check_sizes, times_of
from airflow_stepop.hooks.modal.names import (
    CHECKPOINT_FOLDER,
    CHECKPOINT_VOLUME,
    JOB_VOLUME,
    STEP_FOLDER,
)
from airflow_stepop.hooks.modal.resources import Resources, resources_of
from airflow_stepop.hooks.modal.tags import JOB, RESULTS, to_tags
from airflow_stepop.stores.paths import checkpoint_path, job_path

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.settings import ModalSettings
    from airflow_stepop.job import StepSpec

Json = dict[str, Any]

IN, OUT = "in", "out"  # folders of the job
OUTPUT = f"{STEP_FOLDER}/{OUT}"
VOLUME_VERSION = 2
RECEIPT_LIMIT = 400  # of a line with the digest alone: the outcome itself lies in the Volume
# Modal sets them and takes no others: https://modal.com/docs/guide/environment_variables
RESERVED_ENV = ("MODAL_CLOUD_PROVIDER", "MODAL_IMAGE_ID", "MODAL_REGION", "MODAL_TASK_ID")


@dataclass(frozen=True)
class Submitted:
    """What only a submit knows. ``render`` shows the defaults instead.

    :param digest: SHA-256 of the manifest
    :param runner_digest: SHA-256 of ``step.pyz``
    :param environment: that of the connection; empty: the workspace's default
    :param seal: key of the sealed files, in hex; empty: no file is sealed
    :param secret_names: variables that the sandbox gets from a Secret of its own, which nobody else sees
    :param secret_bytes: size of their names and values
    :param input_folder: folder of the input below the folder of the job
    """

    digest: str
    runner_digest: str = "<digest of step.pyz>"
    environment: str = ""
    seal: str = ""
    secret_names: Sequence[str] = ()
    secret_bytes: int = 0
    input_folder: str = f"{IN}/<digest of the input>"


def sandbox_request(spec: StepSpec, settings: ModalSettings, submitted: Submitted) -> Json:
    """Return the request.

    :raises UnsupportedError: a resource or a variable that a sandbox cannot have, or too many bytes
    :raises StepConfigError: a setting contradicts another argument
    """
    resources = resources_of(settings, spec.resources)
    times = times_of(settings, spec.timeout_s)
    request: Json = {
        "name": spec.name,
        "app_name": settings.app_name,
        "environment": settings.environment or submitted.environment or None,
        "args": _command(spec, settings, submitted, times),
        "image": image_of(spec.image, settings),
        "env": _environment(spec),
        "tags": {**settings.tags, **to_tags({**spec.labels, RESULTS: spec.result_uri, JOB: spec.name})},
        "timeout": times.sandbox_s,
        "volumes": _volumes(spec, settings),
        **_sizes(resources),
        **_options(settings),
    }
    if submitted.secret_names:
        request["own_secret"] = sorted(submitted.secret_names)
    check_sizes(request["args"], request["env"], submitted.secret_bytes)
    return request


def job_folder(spec: StepSpec) -> str:
    """Return the folder of a job in the Volume, which the sandbox sees as ``/stepop``."""
    return folder_of_job(spec.labels, spec.name, spec.nonce)


def folder_of_job(labels: Mapping[str, str], name: str, nonce: str) -> str:
    """Return the folder of a job. Another job of the same name, made by somebody else, has another folder."""
    return f"{job_path(labels, name)}/{nonce_hash(nonce)}"


def checkpoint_folder(spec: StepSpec) -> str:
    """Return the folder of a task's checkpoints in their Volume; the same for all tries with one call.

    :param spec: of a step with checkpoints
    """
    folder = checkpoint_path(spec.labels)
    return f"{folder}/{spec.checkpoint_uri.rpartition('/')[2]}"


def _command(spec: StepSpec, settings: ModalSettings, submitted: Submitted, times: Times) -> list[str]:
    return runner_argv(
        settings.python,
        spec,
        inputs=f"{STEP_FOLDER}/{submitted.input_folder}",
        outputs=OUTPUT,
        digest=submitted.digest,
        runner_digest=submitted.runner_digest,
        has_output_folder=True,
        receipt="-",
        receipt_limit=RECEIPT_LIMIT,
        mounted=1,
        sync=STEP_FOLDER,
        seal=submitted.seal or None,
        sign=1 if submitted.seal else None,
        secrets="env" if submitted.secret_names else None,
        started=STEP_FOLDER,
        job_id="env:MODAL_TASK_ID",
        restarts=0,
        timeout=times.step_s,
        grace=GRACE_S,
    )


def _environment(spec: StepSpec) -> dict[str, str]:
    """Return the variables of the sandbox. The dashboard does not show them, but no secret is among them."""
    found = step_env(spec)
    for name in found:
        if name in RESERVED_ENV:
            raise UnsupportedError(
                f"env: Modal sets {name} itself, and takes no other value; use another name (its own are "
                f"{', '.join(RESERVED_ENV)})"
            )
        if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
            raise UnsupportedError(f"env: {name!r} is no name that a variable in a sandbox may have")
    return found


def _volumes(spec: StepSpec, settings: ModalSettings) -> Json:
    """Return mount path -> Volume. Each Volume is mounted once, as Modal allows no more."""
    own: Json = {STEP_FOLDER: _own_volume(JOB_VOLUME, job_folder(spec))}
    if spec.checkpoint_uri:
        own[CHECKPOINT_FOLDER] = _own_volume(CHECKPOINT_VOLUME, checkpoint_folder(spec))
    return {**own, **{path: {"volume": name} for path, name in settings.volumes.items()}}


def _own_volume(name: str, folder: str) -> Json:
    return {"volume": name, "version": VOLUME_VERSION, "sub_path": f"/{folder}"}


def _sizes(resources: Resources) -> Json:
    """Return the sizes. Of several kinds of GPUs it is the first: ``StepHook.settings_of`` leaves one."""
    cpu = list(resources.cpu) if isinstance(resources.cpu, tuple) else resources.cpu
    memory = None if resources.memory is None else list(resources.memory)
    return _given(gpu=next(iter(resources.gpu.gpus), None), cpu=cpu, memory=memory)


def _options(settings: ModalSettings) -> Json:
    """Return the arguments that are left out where they are not asked for."""
    region = [settings.region] if isinstance(settings.region, str) else settings.region
    buckets = {
        path: mount.model_dump(exclude_defaults=True) for path, mount in settings.cloud_bucket_mounts.items()
    }
    return _given(
        region=region,
        cloud=settings.cloud,
        secrets=settings.secrets or None,
        cloud_bucket_mounts=buckets or None,
        block_network=settings.block_network or None,
        outbound_cidr_allowlist=settings.outbound_cidr_allowlist,
        outbound_domain_allowlist=settings.outbound_domain_allowlist,
        proxy=settings.proxy,
        workdir=settings.workdir,
        verbose=settings.verbose or None,
    )


def _given(**fields: Any) -> Json:
    return {name: value for name, value in fields.items() if value is not None}
