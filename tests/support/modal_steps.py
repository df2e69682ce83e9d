"""Steps for the backend ``modal``: those of the golden files, and one that has what a test needs."""

from __future__ import annotations

from typing import Any

from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle, JobStatus, StepSpec
from airflow_stepop.resources import ResourceSettings
from tests.support.waiting import wait_until

LABELS = {
    "deployment": "team-a",
    "dag_id": "train",
    "run_id": "manual__2026-01-01T00:00:00+00:00",
    "task_id": "fit",
    "map_index": "-1",
    "nonce": "0" * 32,
}
CASES: dict[str, dict[str, Any]] = {
    "small": {},
    "seed": {"settings": {"gpu": "any", "cpu": 4.0, "memory": 16384}, "image": "python:3.12-slim"},
    "everything": {
        "settings": {
            "gpu": ["H100", "A100-80GB:2"],
            "cpu": (0.5, 4),
            "memory": (512, 2048),
            "timeout": 3600,
            "region": "us-east",
            "cloud": "aws",
            "environment": "dev",
            "app_name": "training",
            "volumes": {"/data": "my-data"},
            "secrets": ["hugging-face"],
            "cloud_bucket_mounts": {
                "/bucket": {"bucket_name": "b", "key_prefix": "x/", "secret": "aws", "read_only": True}
            },
            "outbound_cidr_allowlist": ["203.0.113.0/24"],
            "outbound_domain_allowlist": ["*.example.com"],
            "proxy": "office",
            "registry_secret": "ghcr",
            "add_python": "3.12",
            "workdir": "/work",
            "tags": {"team": "ml"},
            "verbose": True,
            "python": "/opt/bin/python3",
        },
        "image": "ghcr.io/team/image:1",
        "timeout_s": 3600.0,
        "env": {"SEED": "1"},
        "checkpoint_uri": "s3://bucket/checkpoints/x/checkpoints/team-a/train/1/fit/-1/abc123",
    },
    "resources": {
        "resources": ResourceSettings(
            cpu_count=8, memory="32GB", gpu_count=1, gpu_type="NVIDIA_TESLA_A100", disk="100GB"
        ),
        "settings": {"block_network": True, "region": ["us", "eu"]},
        "image": "modal:my-image:v1",
        "timeout_s": 90.5,
    },
}


def a_spec(**options: Any) -> StepSpec:
    given = {
        "name": "s-train-fit-0123456789ab",
        "nonce": "0" * 32,
        "labels": LABELS,
        "digest": "1" * 64,
        "result_uri": "file:///srv/stepop/results/team-a/train/1/fit/-1/s-train-fit-0123456789ab",
        **options,
    }
    return StepSpec(**given)


def end_of(hook: ModalStepHook, handle: JobHandle) -> JobStatus:
    """Wait for the end of a job, and return its status."""
    found: JobStatus = wait_until(
        lambda: hook.status([handle])[handle], f"{handle} to end", holds=lambda one: one.state.is_terminal
    )
    return found
