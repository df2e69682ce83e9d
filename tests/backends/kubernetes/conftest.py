"""Submits steps to a real cluster, and removes them after each test."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.testing import make_step


@pytest.fixture
def hook(kubernetes_namespace):
    return KubernetesStepHook()


@pytest.fixture
def submitted(hook):
    """Return a function that submits a step. At the end the jobs are deleted."""
    handles = []

    def submit(call, **options):
        step = make_step(call, **options)
        handles.append(hook.submit(step.spec, step.payload))
        return step, handles[-1]

    yield submit
    for handle in handles:
        hook.delete(handle)


@pytest.fixture
def admin():
    """A client with all permissions on the cluster. Airflow has fewer."""
    from kubernetes import client, config

    return client.CoreV1Api(config.new_client_from_config())
