"""What no job could have is refused when the DAG file is read, if all of it is written there."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator, ResourceSettings, StepConfigError
from tests.support.third_party import install_backend

GPU = ResourceSettings(gpu_count=1)
NO_GPUS = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/nonexistent"}

REFUSED = {
    "local image": ({"backend": "local", "image": "python:3.12"}, "local backend runs on this host without"),
    "local image beside settings": (
        {"backend": "local", "image": "python:3.12", "settings": {"grace_period_s": 1}},
        "image='python:3.12': the local backend runs on this host",
    ),
    "local nodes": ({"backend": "local", "resource_settings": {"nodes": 2}}, "the local backend is one host"),
    "local setting": ({"backend": "local", "settings": {"pyton": "x"}}, "did you mean 'python'?"),
    "local value": ({"backend": "local", "settings": {"log_limit": "1KB"}}, "write at least '1MiB'"),
    "no backend": ({"backend": "locl"}, "did you mean 'local'?"),
}
KUBERNETES = {
    "image": ({"image": "Python:3.12"}, "image='Python:3.12' is no name of a container image"),
    "image with a blank": ({"image": "python 3.12"}, "is no name of a container image"),
    "image with a scheme": ({"image": "https://ghcr.io/team/image"}, "is no name of a container image"),
    "nodes": ({"resource_settings": {"nodes": 2}}, "runs a step in one pod"),
    "gpu_type": (
        {"resource_settings": {"gpu_type": "A 100", "gpu_count": 1}},
        "cannot be the label of a node",
    ),
    "setting": ({"settings": {"namespce": "a"}}, "did you mean 'namespace'?"),
    "setting inside a setting": (
        {"settings": {"security_context": {"runAsUserr": 1}}},
        "runAsUserr",
    ),
    "settings against resources": (
        {
            "settings": {"resources": {"limits": {"nvidia.com/gpu": "2"}}},
            "resource_settings": {"gpu_count": 1},
        },
        "nvidia.com/gpu='2' contradicts resource_settings",
    ),
}
SAGEMAKER = {
    "nodes": ({"resource_settings": {"nodes": 2}}, "runs a step on one machine"),
    "nodes beside settings": (
        {"settings": {"use_spot_instances": True}, "resource_settings": {"nodes": 2}},
        "runs a step on one machine",
    ),
    "setting": ({"settings": {"instance_typ": "ml.m5.large"}}, "did you mean 'instance_type'?"),
    "settings against resources": (
        {"settings": {"instance_type": "ml.m5.large"}, "resource_settings": {"gpu_count": 1}},
        "ml.m5.large",
    ),
}
ALL = {**REFUSED, **{f"{backend} {name}": ({"backend": backend, **given}, text)
                     for backend, cases in {"kubernetes": KUBERNETES, "sagemaker": SAGEMAKER}.items()
                     for name, (given, text) in cases.items()}}  # fmt: skip


def plain(**arguments):
    with DAG("literal", schedule=None):

        @task.remote_step(**arguments)
        def step():
            return 1

        step()


def mapped(**arguments):
    with DAG("literal", schedule=None):

        @task.remote_step(**arguments)
        def step(x):
            return x

        step.expand(x=[1, 2])


def command(**arguments):
    with DAG("literal", schedule=None):
        RemoteStepOperator(task_id="x", command=["true"], **arguments)


def mapped_command(**arguments):
    with DAG("literal", schedule=None):
        RemoteStepOperator.partial(task_id="x", **arguments).expand(command=[["true"]])


WAYS = (plain, mapped, command, mapped_command)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("arguments", "text"), ALL.values(), ids=ALL)
def test_it_is_refused(way, arguments, text):
    """Whatever a connection says, so also if the task names one."""
    pytest.importorskip("kubernetes")
    for more in ({}, {"conn_id": "nowhere"}):
        with pytest.raises(StepConfigError, match=re.escape(text)):
            way(**arguments, **more)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("arguments", [given for given, _ in ALL.values()], ids=ALL)
def test_nothing_is_checked_under_an_override(way, arguments, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__BACKEND_OVERRIDE", "local")
    way(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"backend": "local", "image": "{{ var.value.image }}"},
        {"backend": "{{ var.value.backend }}", "image": "python:3.12", "settings": {"x": 1}},
        {"conn_id": "here", "image": "Python:3.12", "settings": {"x": 1}},  # it may name any backend
        {"backend": "local", "settings": {"pyton": "{{ var.value.python }}"}},
        {"backend": "local", "resource_settings": {"nodes": "{{ var.value.nodes }}"}},
        {"backend": "local", "settings": {"log_limit": "{% if x %}1KB{% endif %}"}},
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_known_later_is_left_for_later(way, arguments):
    way(**arguments)


@pytest.mark.parametrize(
    "image",
    [
        "python", "python:3.12", "python:3.12-slim", "library/python", "ghcr.io/team/image:1.0_a",
        "localhost:5000/x", "Registry.example.com:5000/a/b__c/d--e", "[::1]:5000/x",
        "123456789012.dkr.ecr.eu-central-1.amazonaws.com/team/train:latest",
        f"gcr.io/team/image@sha256:{'0a' * 32}", f"gcr.io/team/image:1@sha256:{'0a' * 32}",
    ],
)  # fmt: skip
def test_images_that_a_cluster_takes(image):
    pytest.importorskip("kubernetes")
    plain(backend="kubernetes", image=image, resource_settings={"gpu_count": 1, "gpu_type": "A100-80GB"})


@pytest.mark.parametrize("way", WAYS)
def test_gpus_of_a_host_without_any(way, monkeypatch):
    """Only where Airflow's workers are on this host; else their hosts may have some."""
    for name, value in NO_GPUS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("airflow_stepop.hooks.local.supervisor.gpus._device_numbers", list)
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    with pytest.raises(StepConfigError, match="gpu_count=1: this host has none; leave it out"):
        way(backend="local", resource_settings=GPU)
    way(backend="local", resource_settings={"gpu_count": "{{ params.gpus }}"})
    way(resource_settings=GPU)  # no backend is named
    for executor in ("CeleryExecutor", "LocalExecutor,CeleryExecutor"):
        monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executor)
        way(backend="local", resource_settings=GPU)


def test_a_backend_of_a_third_party(monkeypatch, tmp_path):
    install_backend(monkeypatch, tmp_path / "dist", "lacking", "tests.support.third_party:LackingHook")
    for settings in (None, {"grace_period_s": 1}):
        with pytest.raises(StepConfigError, match="image='x'"):
            plain(backend="lacking", image="x", settings=settings)


LOADED = """
import sys
from airflow.sdk import DAG, task
import airflow_stepop.decorators
with DAG("d", schedule=None):
    @task.remote_step(backend="kubernetes", conn_id="x", {arguments})
    def f():
        pass
    f()
print(*[name for name in sys.modules if name.startswith(("airflow_stepop.hooks", "kubernetes", "pydantic"))])
"""


@pytest.mark.parametrize(
    ("arguments", "hooks"),
    [
        ("timeout=3600", set()),
        ("settings={'namespace': '{{ var.value.ns }}'}", set()),
        (
            "image='python:3.12', resource_settings={'gpu_count': 1}",
            {
                "airflow_stepop.hooks.kubernetes",
                "airflow_stepop.hooks.kubernetes.literals",
            },
        ),
    ],
)
def test_a_dag_file_imports_models_only_for_settings(arguments, hooks):
    pytest.importorskip("kubernetes")
    code = LOADED.replace("{arguments}", arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("airflow_stepop.hooks.")} == hooks
    assert "kubernetes" not in loaded
