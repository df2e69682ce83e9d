"""The stored forms of services: a checkpoint, a Kubernetes Job, a SageMaker job. See ``stored_forms.py``.

The Job comes from a server that stores what the hook sends. The training job comes from the emulator, which
needs ``STEPOP_S3SERVER``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_stepop.hooks.base import StepHook
from airflow_stepop.job import JobHandle, Payload, StepSpec
from airflow_stepop.record import CallIdentity, StepRecord, first_record, signed
from tests.support.s3 import started
from tests.support.sagemaker import SageMaker, log_service, sagemaker
from tests.support.stored_forms import BUCKET_ENVIRONMENT, DEPLOYMENT, Places, owner_of, placed
from tests.support.stored_services import StoredCluster, cluster_connection, serving

Json = dict[str, Any]
Write = Callable[[str, Any], None]
CHECKPOINT_URI = f"s3://bucket/airflow/checkpoints/{DEPLOYMENT}/forms/run/train/1-1bad6b8c/0123456789abcdef"
ADDRESS = "s3://stepop_tests_s3@steps/stored-forms"
COMMAND = ["sh", "-c", "echo begun; echo forty-two > answer.txt"]


def labels(task_id: str) -> dict[str, str]:
    run = {"run_id": "scheduled__2026-01-01T00:00:00+00:00", "map_index": "-1"}
    return {"deployment": DEPLOYMENT, "dag_id": "forms", "task_id": task_id, **run}


def new_record(hook: StepHook, task_id: str) -> StepRecord:
    record = first_record(
        call=CallIdentity("0" * 64, max_tries=3, clear_number=0),
        backend=hook.backend,
        conn_id=hook.default_conn_id,
        labels=labels(task_id),
        generation=1,
    )
    asked = {"timeout_s": 3600.0, "start_timeout_s": None, "deferrable": None, "resources": {}}
    return replace(record, asked=asked)


def write_records(write: Write, name: str, record: StepRecord, handle: JobHandle, places: Places) -> None:
    """Write the records before and after the submit."""
    owner = owner_of({"labels": record.labels})
    for what, one in (("intended", record), ("submitted", record.with_handle(handle))):
        write(f"records/{name}_{what}", placed(signed(one.to_json(), owner), places))


def step_of(record: StepRecord, **fields: Any) -> tuple[StepSpec, Payload]:
    from airflow_stepop.payload.build import build_payload
    from airflow_stepop.payload.call import CommandCall, Setup

    call = CommandCall(argv=COMMAND, inputs={}, outputs=["answer.txt"])
    payload = build_payload(
        call, job=record.name, nonce=record.nonce, setup=Setup(), split="no", is_result_wanted=True
    )
    spec = StepSpec(record.name, record.nonce, record.labels, payload.digest, timeout_s=3600.0, **fields)
    return spec, payload


def write_checkpoint(draft: Path, write: Write) -> None:
    """Write a snapshot of a checkpoint folder, as a job saves it into a bucket."""
    from airflow_stepop.hooks.common.input_files import checkpoint_keys
    from airflow_stepop.runner.archive import pack

    os.environ |= BUCKET_ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "epoch.json").write_text("7")
        Path(folder, "weights").mkdir()
        Path(folder, "weights", "layer.bin").write_bytes(b"\x00\x01\x02")
        key, *_ = checkpoint_keys(CHECKPOINT_URI)
        pack(folder, str(draft / "checkpoint.tar"), key, 1 << 20, lambda _: None)
    write("checkpoint", {"uri": CHECKPOINT_URI})


def write_kubernetes(write: Write) -> None:
    """Submit a step to a server that stores objects, and add what a cluster adds."""
    from airflow_stepop.hooks.kubernetes import KubernetesStepHook
    from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings

    cluster = StoredCluster()
    with serving(cluster.answer) as url:
        os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = cluster_connection(url)
        hook = KubernetesStepHook()
        record = new_record(hook, "on_kubernetes")
        handle = hook.submit(
            *step_of(record, image="python:3.12-slim", settings=KubernetesSettings(), result_uri=""),
        )
    write_records(write, "kubernetes", record, handle, {url.removeprefix("http://"): "@SERVER@"})
    job, secret = cluster.objects[f"jobs/{record.name}"], cluster.objects[f"secrets/{record.name}"]
    del secret["data"]["step.pyz"]  # large, and no test runs the job
    pod = pod_of(job)
    job["status"] = {"active": 1, "ready": 1, "startTime": "2026-01-01T00:00:01Z"}
    running = {"running": {"startedAt": "2026-01-01T00:00:02Z"}}
    pod["status"] = {"phase": "Running", "containerStatuses": [{"name": "step", "state": running}]}
    write("kubernetes/running", objects_of(record.name, job, pod, secret))
    receipt = receipt_of(record)
    done = {"exitCode": 0, "reason": "Completed", "message": receipt, "finishedAt": "2026-01-01T00:01:00Z"}
    ended = {"terminated": {"startedAt": "2026-01-01T00:00:02Z", **done}}
    pod["status"] = {"phase": "Succeeded", "containerStatuses": [{"name": "step", "state": ended}]}
    complete = {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:01:01Z"}
    job["status"] = {"succeeded": 1, "conditions": [complete], "completionTime": "2026-01-01T00:01:01Z"}
    write("kubernetes/ended", objects_of(record.name, job, pod, secret))
    write("kubernetes/preserved", preserved(hook, handle, job, pod, secret))


def preserved(hook: StepHook, handle: JobHandle, job: Json, pod: Json, secret: Json) -> Json:
    """Return the objects after the hook has preserved the outcome, and the pod is gone with its node."""
    cluster = StoredCluster(deepcopy(objects_of(handle.name, job, pod, secret)))
    with serving(cluster.answer) as url:
        os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = cluster_connection(url)
        type(hook)().preserve_outcome(handle)
    return {name: one for name, one in cluster.objects.items() if not name.startswith("pods/")}


def objects_of(name: str, job: Json, pod: Json, secret: Json) -> Json:
    return {f"jobs/{name}": job, f"pods/{name}": pod, f"secrets/{name}": secret}


def pod_of(job: Json) -> Json:
    """Return the Job's pod as the Job controller makes it."""
    metadata, template = job["metadata"], job["spec"]["template"]
    own = {"batch.kubernetes.io/job-name": metadata["name"]}
    return {
        "metadata": {
            "name": f"{metadata['name']}-x7k2p",
            "creationTimestamp": "2026-01-01T00:00:01Z",
            "labels": {**template["metadata"]["labels"], **own},
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [{"kind": "Job", "name": metadata["name"], "uid": metadata["uid"]}],
        },
        "spec": template["spec"],
    }


def receipt_of(record: StepRecord) -> str:
    """Return the receipt of a command that has written ``answer.txt``, as the runner prints it."""
    from airflow_stepop.runner.protocol import PROTOCOL

    data = b"forty-two\n"
    segment = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    segment["data"] = base64.b64encode(data).decode()
    entry = {"codec": "file", "segments": [segment], "about": "file answer.txt"}
    outcome = {
        "protocol": PROTOCOL,
        "job": record.name,
        "nonce": record.nonce,
        "status": "success",
        "value": None,
        "split": None,
        "values": None,
        "outputs": {"answer.txt": entry},
        "failure": None,
        "usage": {"wall_s": 58.0, "cpu_s": 0.1, "peak_memory_bytes": 11_000_000},
    }
    text = json.dumps(outcome, separators=(",", ":")).encode()
    digest = {"protocol": PROTOCOL, "digest": hashlib.sha256(text).hexdigest(), "size": len(text)}
    return json.dumps({**digest, "outcome": base64.b64encode(text).decode()}, separators=(",", ":"))


def write_sagemaker(draft: Path, write: Write) -> None:
    """Run a training job in the emulator, and take what the service shows of it before and after its end."""
    s3 = started(os.environ["STEPOP_S3SERVER"])
    os.environ[f"AIRFLOW_CONN_{s3.conn_id.upper()}"] = s3.connection()
    os.environ["AIRFLOW__STEPOP__STORE"] = ADDRESS
    with log_service() as logs_url, sagemaker(s3, logs_url) as service:
        settings = {"stepop": {"settings": {"role": service.role}}}
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = service.connection(**settings)
        write_training_job(draft, write, service)


def write_training_job(draft: Path, write: Write, service: SageMaker) -> None:
    from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
    from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings
    from airflow_stepop.stores.configured import open_store
    from airflow_stepop.stores.paths import result_path

    store = open_store(ADDRESS)
    store.delete_folder("")
    hook = SageMakerStepHook()
    record = new_record(hook, "on_sagemaker")
    result_uri = store.uri(result_path(record.labels, record.name))
    settings = SageMakerSettings(role=service.role)
    service.do("plan", job="*", hold=["Training"])
    handle = hook.submit(
        *step_of(record, image=service.image, settings=settings, result_uri=result_uri),
    )
    write_records(write, "sagemaker", record, handle, {store.url: "@BUCKET@"})
    write("sagemaker/running", described(service, service.wait_for(record.name, "Training")))
    service.do("release", job="*", phase="Training")
    ended = described(service, service.wait_for(record.name, "Completed"))
    lines = service.log(record.name)
    write("sagemaker/ended", {**ended, "lines": lines})
    path = store.path_of(result_uri) or ""
    for name in store.list(path):
        target = draft / "bucket" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(bytes(store.read(name, store.size_of(name))))
    store.delete_folder("")


def described(service: SageMaker, job: Mapping[str, Any]) -> Json:
    """Return a training job and its tags as the service sends them: times are seconds since the epoch."""
    tags = service.client("sagemaker").list_tags(ResourceArn=job["TrainingJobArn"])["Tags"]
    found = {name: one for name, one in job.items() if name != "ResponseMetadata"}
    return {"job": _sent(found), "tags": {"Tags": tags}, "lines": []}


def _sent(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, dict):
        return {name: _sent(one) for name, one in value.items()}
    return [_sent(one) for one in value] if isinstance(value, list) else value
