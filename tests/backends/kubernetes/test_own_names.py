"""Names that the backend uses itself are refused: a value that is overwritten silently helps nobody."""

from __future__ import annotations

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes.manifests import job_manifest
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.job import StepSpec
from tests.support.cluster import PAGE


def job(settings, env=None):
    spec = StepSpec(name="s-1", nonce="n", labels={}, digest="d", env=env or {})
    return job_manifest(spec, parse_settings(KubernetesSettings, settings, "kubernetes"))


def of_pod(**metadata):
    return {"pod_template": {"metadata": metadata, "spec": {}}}


def of_step(**fields):
    return {"pod_template": {"spec": {"containers": [{"name": "step", **fields}]}}}


MANAGED_BY = "app.kubernetes.io/managed-by"
SHM = [{"name": "stepop-shm", "emptyDir": {}}]


@pytest.mark.parametrize(
    ("settings", "where", "name"),
    [
        ({"labels": {MANAGED_BY: "helm"}}, "settings, labels", MANAGED_BY),
        ({"labels": {"airflow-stepop/dag-id": "x"}}, "settings, labels", "airflow-stepop/dag-id"),
        ({"annotations": {"airflow-stepop/digest": "x"}}, "settings, annotations", "airflow-stepop/digest"),
        (of_pod(labels={MANAGED_BY: "helm"}), "pod_template, labels", MANAGED_BY),
        (of_pod(annotations={"airflow-stepop/x": "1"}), "pod_template, annotations", "airflow-stepop/x"),
        ({"env": [{"name": "STEPOP_DIGEST", "value": "x"}]}, "settings, env", "STEPOP_DIGEST"),
        (of_step(env=[{"name": "STEPOP_JOB", "value": "x"}]), "pod_template, env", "STEPOP_JOB"),
        ({"volumes": SHM}, "settings, volumes", "stepop-shm"),
        ({"pod_template": {"volumes": SHM}}, "pod_template, volumes", "stepop-shm"),
        ({"volume_mounts": [{"name": "a", "mount_path": "/stepop/in/"}]},
         "settings, volume_mounts", "/stepop/in"),
        (of_step(volumeMounts=[{"name": "a", "mountPath": "/stepop/out"}]),
         "pod_template, volumeMounts", "/stepop/out"),
    ],
)  # fmt: skip
def test_a_name_of_ours_is_refused(settings, where, name):
    with pytest.raises(StepConfigError) as error:
        job(settings)
    assert str(error.value) == f"{where}: {name!r} is set by airflow-stepop itself; use another name"


def test_a_variable_of_ours_is_refused_in_the_task_s_env():
    with pytest.raises(StepConfigError, match="env: 'STEPOP_NONCE' is set by airflow-stepop itself"):
        job({}, env={"STEPOP_NONCE": "x"})


def test_similar_names_are_the_user_s():
    labels = {"app.kubernetes.io/managed-by-team": "a", "example.com/airflow-stepop": "b"}
    env = [{"name": "STEPOP_CACHE", "value": "/cache"}]
    made = job({"labels": labels, "env": env, "volumes": [{"name": "stepop", "emptyDir": {}}]})
    assert labels.items() <= made["metadata"]["labels"].items()
    assert made["spec"]["template"]["spec"]["containers"][0]["env"][0] == env[0]


def test_a_queue_has_one_name():
    queue = "kueue.x-k8s.io/queue-name"
    with pytest.raises(StepConfigError, match=r"queue-name='a' contradicts queue_name='b'; set one of them"):
        job({"labels": {queue: "a"}, "queue_name": "b"})
    assert job({"labels": {queue: "a"}, "queue_name": "a"})["metadata"]["labels"][queue] == "a"


# -- what the page says


def test_the_page_binds_its_role():
    import re

    import yaml

    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    found = {
        one["kind"]: one for one in map(yaml.safe_load, blocks) if isinstance(one, dict) and "kind" in one
    }
    role, binding = found["Role"], found["RoleBinding"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["apiVersion"] == role["apiVersion"]


def test_an_outcome_of_one_kib_fits_into_the_termination_message():
    """The page, the setting and the error have this number."""
    from airflow_stepop.runner.receipt import _receipt

    for others in (0, 1):
        inits = [{"name": f"i{number}", "image": "x"} for number in range(others)]
        args = job({"init_containers": inits})["spec"]["template"]["spec"]["containers"][0]["args"]
        assert len(_receipt({}, bytes(1024), "")) <= int(args[args.index("--receipt-limit") + 1])
    assert "| up to 1 KiB |" in PAGE.read_text()
    assert "above 1 KiB" in (KubernetesSettings.__doc__ or "")


@pytest.mark.parametrize(("index", "expected"), [("-1", None), ("0", "0"), ("12", "12")])
def test_a_task_that_is_not_mapped_has_no_label_for_its_map_index(index, expected):
    spec = StepSpec(name="s-1", nonce="n", labels={"dag_id": "d", "map_index": index}, digest="d")
    labels = job_manifest(spec, KubernetesSettings())["metadata"]["labels"]
    assert labels.get("airflow-stepop/map-index") == expected


@pytest.mark.parametrize("ttl_s", [0, 1, 60, 3599, -1])
def test_a_job_that_would_be_removed_before_its_result_is_read_is_refused(ttl_s):
    with pytest.raises(
        StepConfigError, match=rf"ttl_seconds_after_finished: .*{ttl_s} is too short: .* Use 3600"
    ):
        job({"ttl_seconds_after_finished": ttl_s})
    with pytest.raises(StepConfigError, match="is too short"):
        job({"ttlSecondsAfterFinished": ttl_s})
    assert job({"ttl_seconds_after_finished": 3600})["spec"]["ttlSecondsAfterFinished"] == 3600
    assert job({})["spec"]["ttlSecondsAfterFinished"] == 86400
