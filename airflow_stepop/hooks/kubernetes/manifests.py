"""Builds the Job and the Secret of a step as JSON. ``hook.py`` sends them.

The functions send no request. The constants name the annotations, labels and paths that the
other modules of this backend read.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.stored_json import parsed_json
from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import IntegrityError, StepConfigError
from airflow_stepop.hooks.common.labels import LabelRules
from airflow_stepop.hooks.common.runner_command import runner_argv, step_env
from airflow_stepop.hooks.kubernetes.literals import check_literals
from airflow_stepop.hooks.kubernetes.objects import STEP, Json, merged, normal
from airflow_stepop.hooks.kubernetes.resources import (
    node_terms,
    quantity,
    requirements,
    tolerations,
    with_terms,
)
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings, step_of
from airflow_stepop.runner.drain import LINGER_S
from airflow_stepop.runner.protocol import ENV_JOB, ENV_NONCE, RECEIPT_LIMIT
from airflow_stepop.stores.folder import folder_of

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.input_files import InputFile
    from airflow_stepop.job import StepSpec

log = logging.getLogger(__name__)

PREFIX = "airflow-stepop"
MANAGED = {"app.kubernetes.io/managed-by": PREFIX}
NONCE = f"{PREFIX}/nonce"  # label of the Job and its pods: see job_labels
LABELS = f"{PREFIX}/labels"  # annotation: the original labels as JSON; a label's value may be shortened
RESULTS = f"{PREFIX}/result-uri"  # annotation: address in the store of the large parts of the result
DIGEST = f"{PREFIX}/digest"  # annotation of the pod: SHA-256 of the manifest that the Secret holds
RELEASED = f"{PREFIX}/released"  # annotation: the submission is complete
CANCELLED = f"{PREFIX}/cancelled"  # annotation: the hook was asked to cancel the job
FAILURE = f"{PREFIX}/failure"  # annotation: the failure as JSON, if the pod cannot show it
END = f"{PREFIX}/end"  # annotation: how the job ended, as JSON, since its pod may be gone later
OUTCOME_IN_LOG = f"{PREFIX}/outcome-in-log"  # annotation: a large outcome is printed to the log
PRESERVED_RECEIPT = f"{PREFIX}/receipt"  # annotation: a copy of the receipt in the pod
PRESERVED_MAC = f"{PREFIX}/receipt-mac"  # annotation: proves that this deployment has written that copy
PRESERVED_FRAMES = f"{PREFIX}/frames"  # annotation: a copy of the log lines that carry the outcome
SUCCEEDED = f"{PREFIX}/succeeded"  # annotation: the step succeeded before its sidecars were ended
QUEUE = "kueue.x-k8s.io/queue-name"

JOB_NAME = "batch.kubernetes.io/job-name"  # label that the Job controller sets on its pods

INPUT, OUTPUT = "/stepop/in", "/stepop/out"
RECEIPT = "/dev/termination-log"
MESSAGES_BYTES = 12288  # for the messages of all containers of a pod; each has the same share
INJECTED = 6  # containers that webhooks may add to a pod: service meshes, secret agents
ENV_DIGEST = "STEPOP_DIGEST"
COMMAND_WORDS = 4  # this many words of the runner's command line are `command`; the rest is `args`
# Without a start_timeout: seconds that a Job may wait for its pod, in addition to the pod's own deadline
START_S = 7 * 86400
# Without a start_timeout: seconds for image pulls and init containers. The deadline of a pod counts from the
# moment when the kubelet accepts the pod
START_IN_POD_S = 3600
LONGEST_DEADLINE_S = 2**31 - 1  # of a pod: the API has 32 bits
INPUT_VOLUME, OUTPUT_VOLUME, SHM_VOLUME = "stepop-in", "stepop-out", "stepop-shm"
# labels, variables, volumes and paths that a task must not use; names with PREFIX/ belong to them, too
OWN_NAMES = frozenset(
    {*MANAGED, ENV_DIGEST, ENV_JOB, ENV_NONCE, INPUT, OUTPUT, INPUT_VOLUME, OUTPUT_VOLUME, SHM_VOLUME}
)
LARGE_BYTES = 1 << 20  # a Job above this size gets a note: etcd's limit of an object is 1.5 MiB by default
GRACE_S = 30  # between SIGTERM and SIGKILL

# the syntax of a label's value: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/
LABEL_RULES = LabelRules("A-Za-z0-9._-", length=63)


def job_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a step's Job, encoded for the API.

    A task that is not mapped has no label for its map index: -1 is no valid value of a label.
    """
    shown = {name: value for name, value in labels.items() if (name, value) != ("map_index", "-1")}
    return {
        **MANAGED,
        **{f"{PREFIX}/{name.replace('_', '-')}": LABEL_RULES.encode(value) for name, value in shown.items()},
    }


def default_image() -> str:
    """Return an image with the Python version of this process, as functions are pickled with this version."""
    return f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"


def job_manifest(spec: StepSpec, settings: KubernetesSettings) -> Json:
    """Return the Job, suspended; the patch of :func:`release` starts it.

    :raises StepConfigError: a setting has an unknown key, or contradicts another argument; or no cluster can
        run the image or the resources
    """
    check_literals(spec.image, spec.resources)
    timeout_s = math.ceil(spec.timeout_s)
    if settings.active_deadline_seconds not in (None, timeout_s):
        raise StepConfigError(
            f"active_deadline_seconds={settings.active_deadline_seconds} contradicts timeout={timeout_s}; "
            "set one of them"
        )
    template = settings.template()
    _check_names(spec, settings, template)
    metadata = {
        "name": spec.name,
        "labels": {**settings.labels, **job_labels(spec.labels)},
        "annotations": {
            **settings.annotations,
            LABELS: json.dumps(dict(spec.labels), sort_keys=True),
            RESULTS: spec.result_uri,
            **({OUTCOME_IN_LOG: "true"} if settings.outcome_in_log else {}),
        },
    }
    waiting_s = math.ceil(spec.start_timeout_s) if spec.start_timeout_s is not None else START_S
    pod = merged(template["spec"], _pod(spec, settings, template["spec"]))
    grace_s = pod["terminationGracePeriodSeconds"]
    start_s = START_IN_POD_S if spec.start_timeout_s is None else waiting_s
    pod["activeDeadlineSeconds"] = min(start_s + timeout_s + grace_s, LONGEST_DEADLINE_S)
    step_of(pod)["args"] += ["--receipt-limit", str(_receipt_limit(pod)), "--grace", str(grace_s)]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {**metadata, **({"namespace": settings.namespace} if settings.namespace else {})},
        "spec": {
            "suspend": True,
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": waiting_s + pod["activeDeadlineSeconds"],
            "ttlSecondsAfterFinished": settings.ttl_seconds_after_finished,
            "template": {
                "metadata": merged(
                    template["metadata"],
                    {
                        "labels": metadata["labels"],
                        "annotations": {**settings.annotations, DIGEST: spec.digest},
                    },
                ),
                "spec": pod,
            },
        },
    }


def _check_names(spec: StepSpec, settings: KubernetesSettings, template: Json) -> None:
    """Refuse names that this backend uses itself, as it would overwrite the user's value.

    :raises StepConfigError: a label, annotation, variable, volume or mount has such a name
    """
    step, metadata = step_of(template["spec"]), template["metadata"]
    for where, names in {
        "settings, labels": settings.labels,
        "settings, annotations": settings.annotations,
        "pod_template, labels": metadata.get("labels") or {},
        "pod_template, annotations": metadata.get("annotations") or {},
        "env": spec.env,
        "settings, env": _names(normal_env(settings), "name"),
        "pod_template, env": _names(step.get("env"), "name"),
        "settings, volumes": _names(settings.pod_fields().get("volumes"), "name"),
        "pod_template, volumes": _names(template["spec"].get("volumes"), "name"),
        "settings, volume_mounts": _names(settings.container_fields().get("volumeMounts"), "mountPath"),
        "pod_template, volumeMounts": _names(step.get("volumeMounts"), "mountPath"),
    }.items():
        if taken := [name for name in names if name in OWN_NAMES or name.startswith(f"{PREFIX}/")]:
            raise StepConfigError(f"{where}: {taken[0]!r} is set by airflow-stepop itself; use another name")
    label = settings.labels.get(QUEUE)
    if label is not None and settings.queue_name not in (None, label):
        raise StepConfigError(
            f"settings, labels: {QUEUE}={label!r} contradicts queue_name={settings.queue_name!r}; "
            "set one of them"
        )


def _names(entries: Sequence[Json] | None, key: str) -> list[str]:
    return [str(entry.get(key)).rstrip("/") for entry in entries or ()]


def _pod(spec: StepSpec, settings: KubernetesSettings, template: Json) -> Json:
    fields = settings.pod_fields()
    account = fields.get("serviceAccountName", template.get("serviceAccountName"))
    defaults = {
        "terminationGracePeriodSeconds": GRACE_S,
        # a pod needs the API only if the user gives it an account
        "automountServiceAccountToken": account is not None,
        "enableServiceLinks": False,
    }
    volumes: list[Json] = [
        {"name": INPUT_VOLUME, "secret": {"secretName": spec.name, "defaultMode": 0o444}},
        {"name": OUTPUT_VOLUME, "emptyDir": {}},
    ]
    if spec.resources.shm is not None:
        limit = quantity(spec.resources.shm)
        volumes.append({"name": SHM_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": limit}})
    terms = node_terms(spec.resources, settings)
    affinity = with_terms(merged(template.get("affinity") or {}, fields.get("affinity") or {}), terms)
    tolerated = [
        *(fields.get("tolerations", template.get("tolerations")) or []),
        *tolerations(spec.resources, settings),
    ]
    sidecars = settings.other_containers()
    return {
        **{field: default for field, default in defaults.items() if field not in template},
        **fields,
        "restartPolicy": "Never",
        **({"affinity": affinity} if affinity else {}),
        **({"tolerations": tolerated} if tolerated else {}),
        **({"initContainers": [*(fields.get("initContainers") or []), *sidecars]} if sidecars else {}),
        "containers": [_container(spec, settings, template)],
        "volumes": [*(fields.get("volumes") or []), *volumes],
    }


def _container(spec: StepSpec, settings: KubernetesSettings, template: Json) -> Json:
    fields = settings.container_fields()
    mounts: list[Json] = [
        {"name": INPUT_VOLUME, "mountPath": INPUT, "readOnly": True},
        {"name": OUTPUT_VOLUME, "mountPath": OUTPUT},
    ]
    if spec.resources.shm is not None:
        mounts.append({"name": SHM_VOLUME, "mountPath": "/dev/shm"})  # noqa: S108 - a path in the step's container
    argv = runner_argv(
        settings.python, spec, inputs=INPUT, outputs=OUTPUT,
        digest=f"$({ENV_DIGEST})",  # the kubelet replaces it with the value
        receipt=RECEIPT, timeout=spec.timeout_s, linger=LINGER_S,
    )  # fmt: skip
    needs = requirements(spec.resources, settings)
    return {
        **fields,
        "name": STEP,
        "image": spec.image or step_of(template).get("image") or default_image(),
        "command": argv[:COMMAND_WORDS],
        "args": argv[COMMAND_WORDS:],
        "env": _env(spec, settings),
        **({"resources": needs} if needs else {}),
        "terminationMessagePath": RECEIPT,
        "volumeMounts": [*(fields.get("volumeMounts") or []), *mounts],
    }


def _receipt_limit(pod: Json) -> int:
    """Return the limit in bytes of one container's termination message.

    A kubelet cuts the messages of a pod to :data:`MESSAGES_BYTES` in total, with the same share for each
    container.

    https://github.com/kubernetes/kubernetes/tree/v1.34.0/pkg/kubelet/status (normalizeStatus)
    """
    containers = len(pod["containers"]) + len(pod.get("initContainers") or ()) + INJECTED
    return min(RECEIPT_LIMIT, MESSAGES_BYTES // containers)


def size_note(body: Mapping[str, object]) -> str:
    """Return a note about a large Job. The API server's own message about its size can be misleading."""
    size = len(json.dumps(body).encode())
    if size < LARGE_BYTES:
        return ""
    return f", which has {shown_size(size)}, while a cluster stores at most 1.5 MiB; shorten env"


def is_bucket(uri: str) -> bool:
    """Return whether an address is in a bucket, which a pod can reach, and not in a folder."""
    return bool(uri) and folder_of(uri) is None


def _env(spec: StepSpec, settings: KubernetesSettings) -> list[Json]:
    """Return the variables of the setting ``env``, the task's ``env`` and the runner; the last one wins.

    A name is in the list once, so that it replaces a template's variable with the same name.
    """
    given = normal_env(settings)
    task = [{"name": name, "value": _literal(value)} for name, value in step_env(spec).items()]
    digest = {"fieldRef": {"fieldPath": f"metadata.annotations['{DIGEST}']"}}
    later = {*(one["name"] for one in task), ENV_DIGEST}
    kept = [one for one in given if one.get("name") not in later]
    return [*kept, *task, {"name": ENV_DIGEST, "valueFrom": digest}]


def normal_env(settings: KubernetesSettings) -> list[Json]:
    """Return the variables of the setting ``env``, in the API's spelling."""
    found: list[Json] = normal(settings.env or [], "[EnvVar]", "settings, env")
    return found


def _literal(value: str) -> str:
    """Escape a value, since Kubernetes replaces ``$(NAME)`` with the value of a variable.

    https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/ (env.value)
    """
    return value.replace("$(", "$$(")


def secret_manifest(job: Mapping[str, Any], digest: str, files: Mapping[str, InputFile]) -> Json:
    """Return the Secret with the step's input.

    The Job owns the Secret, so that the cluster removes both together.

    :param files: files of the runner's input folder, by name
    """
    metadata = job["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata["name"],
            "labels": dict(metadata["labels"]),
            "annotations": {DIGEST: digest},
            "ownerReferences": [{**owner, "controller": False, "blockOwnerDeletion": False}],
        },
        "immutable": True,
        "type": "Opaque",
        "data": {name: base64.b64encode(file.data).decode() for name, file in files.items()},
    }


def release(uid: str, digest: str, queue_name: str | None) -> Json:
    """Return the patch that starts the Job: at once, or when Kueue admits the Job.

    :param uid: of the Job; the API server refuses the patch for a newer Job with the same name
    :param digest: SHA-256 of the manifest in the Secret
    :param queue_name: Kueue's LocalQueue; with a queue the Job stays suspended until Kueue starts it
    """
    begun = {"spec": {"suspend": False}} if queue_name is None else {}
    labels = {"labels": {QUEUE: queue_name}} if queue_name is not None else {}
    return {
        "metadata": {"uid": uid, "annotations": {RELEASED: "true"}, **labels},
        "spec": {
            **begun.get("spec", {}),
            "template": {"metadata": {"annotations": {DIGEST: digest}}},
        },
    }


def is_of(job: Json, secret: Json) -> bool:
    """Return whether a Secret belongs to a Job."""
    owners = secret["metadata"].get("ownerReferences") or ()
    return any(one["uid"] == job["metadata"]["uid"] for one in owners)


def existing(found: Json | None, spec: StepSpec) -> Json:
    """Return an object that was found.

    :raises ConnectionError: it is gone, or goes: a later call makes a new one
    """
    if found is None or "deletionTimestamp" in found["metadata"]:
        raise ConnectionError(f"job {spec.name} was deleted while it was submitted")
    return found


def is_released(job: Json) -> bool:
    """Return whether the submission of a Job is complete."""
    return RELEASED in (job["metadata"].get("annotations") or {})


def labels_of(metadata: Json) -> dict[str, str] | None:
    """Return the labels of a step as they were before they were shortened; ``None`` if they are damaged."""
    try:
        text = (metadata.get("annotations") or {}).get(LABELS, "")
        found = parsed_json(text, f"the annotation {LABELS} of job {metadata['name']}")
        return {name: str(value) for name, value in found.items()}
    except (AttributeError, IntegrityError) as error:
        log.warning("Cannot tell which task a job belongs to: %s", error)
        return None
