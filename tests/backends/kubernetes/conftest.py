"""Steps on a real cluster, which are removed again."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.testing import make_step


@pytest.fixture
def hook(kubernetes_namespace):
    return KubernetesStepHook()


@pytest.fixture
def submitted(hook):
    """Submit steps, and delete what is left of them."""
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
    """The cluster as somebody sees it who may do everything, unlike Airflow."""
    from kubernetes import client, config

    return client.CoreV1Api(config.new_client_from_config())
