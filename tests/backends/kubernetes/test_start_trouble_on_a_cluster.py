"""Jobs that never start, or whose process never ran, on a real cluster."""

from __future__ import annotations

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.kubernetes.manifests import default_image
from airflow_stepop.job import JobState
from airflow_stepop.resources import ResourceSettings
from tests.support.cluster_jobs import wait_over, wait_status
from tests.support.waiting import wait_until


def texts(hook, handle):
    return [line.text for chunk in hook.chunks(handle) for line in chunk.lines]


def container(name, script):
    return {"name": name, "image": default_image(), "command": ["python3", "-c", script]}


def quota(admin, namespace, **hard):
    """Create a quota, and wait until the cluster counts it."""
    hard = {name.replace("_", "."): amount for name, amount in hard.items()}
    admin.create_namespaced_resource_quota(namespace, {"metadata": {"name": "small"}, "spec": {"hard": hard}})
    wait_until(
        lambda: bool(admin.read_namespaced_resource_quota("small", namespace).status.hard),
        "the quota to be counted",
    )


def test_a_missing_volume_claim_is_a_mistake(hook, submitted):
    claim = {"name": "data", "persistent_volume_claim": {"claim_name": "no-such-claim"}}
    mount = {"name": "data", "mount_path": "/data"}
    _, handle = submitted(["true"], settings={"volumes": [claim], "volume_mounts": [mount]})
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.BAD_CONFIG
    assert 'persistentvolumeclaim "no-such-claim" not found' in status.failure.summary


def test_a_sidecar_that_ends_again_and_again_is_named(hook, submitted):
    proxy = container("proxy", "print('no config', flush=True); raise SystemExit(3)")
    _, handle = submitted(["true"], settings={"sidecars": [proxy]})
    failure = wait_over(hook, handle).failure
    assert failure.category is Category.BAD_CONFIG
    assert failure.summary == "Sidecar 'proxy' ended 3 times before the step could begin"
    assert failure.exit_code == 3
    assert failure.log_tail == ("no config",)


@pytest.mark.parametrize("is_in_secret", [False, True], ids=["value", "secret"])
def test_an_environment_that_is_too_large_is_a_mistake_with_its_size(
    hook, submitted, admin, kubernetes_namespace, is_in_secret
):
    large = "x" * 200_000
    options = {"env": {"DATA": large}}
    if is_in_secret:
        secret = {"metadata": {"name": "large"}, "stringData": {"DATA": large}}
        admin.create_namespaced_secret(kubernetes_namespace, secret)
        options = {"settings": {"env_from": [{"secret_ref": {"name": "large"}}]}, "env": {"A": "1"}}
    _, handle = submitted(["true"], **options)
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.BAD_CONFIG
    assert "argument list too long" in status.failure.summary
    assert ("env_from" if is_in_secret else "DATA has 195 KiB") in status.failure.summary
    hook.preserve_outcome(handle)
    assert hook.fresh_status(handle).failure == status.failure


def test_a_job_that_no_cluster_can_store_is_refused_with_its_size(submitted):
    env = {f"D{number}": "x" * 100_000 for number in range(20)}
    with pytest.raises(StepConfigError, match=r"has 1\.9\d MiB, .* at most 1\.5 MiB"):
        submitted(["true"], env=env)


def test_the_lines_of_init_containers_are_shown(hook, submitted):
    inits = [container("fetch", "print('fetched')"), container("unpack", "print('unpacked')")]
    _, handle = submitted(["echo", "hello"], settings={"init_containers": inits})
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    assert texts(hook, handle) == ["fetched", "unpacked", "hello"]


def test_a_start_timeout_has_the_cluster_s_words_about_a_quota(hook, submitted, admin, kubernetes_namespace):
    quota(admin, kubernetes_namespace, limits_memory="200Mi", requests_memory="200Mi")
    try:
        _, first = submitted(["sleep", "600"], resources=ResourceSettings(memory="150MiB"))
        wait_status(hook, first, "it runs", lambda status: status.state is JobState.RUNNING)
        _, handle = submitted(["true"], resources=ResourceSettings(memory="100MiB"))
        said = wait_status(hook, handle, "the quota is named", lambda status: "small" in status.message)
        assert said.description == hook.fresh_status(handle).description
        assert "exceeded quota: small" in said.description
        assert said.state is JobState.PENDING
        _, larger = submitted(["true"], resources=ResourceSettings(memory="300MiB"))
        failure = wait_over(hook, larger).failure
        assert failure.category is Category.BAD_CONFIG
        assert "300Mi limits.memory of 200Mi" in failure.summary
    finally:
        admin.delete_namespaced_resource_quota("small", kubernetes_namespace)


def test_a_start_timeout_has_the_node_s_words_about_a_volume_driver(hook, submitted):
    volume = {"name": "data", "csi": {"driver": "no-such-driver.example.com"}}
    mount = {"name": "data", "mount_path": "/data"}
    _, handle = submitted(["true"], settings={"volumes": [volume], "volume_mounts": [mount]})
    words = "no-such-driver.example.com not found in the list of registered CSI drivers"
    wait_status(hook, handle, "the driver is named", lambda status: words in status.message)
    assert words in hook.fresh_status(handle).description
