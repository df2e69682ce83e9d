"""The documentation's example on a real cluster, between two tasks of a real Airflow."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.support import deployment
from tests.support.paths import EXAMPLES
from tests.support.waiting import wait_until

EXAMPLE = EXAMPLES / "train_on_kubernetes.py"
DAG = "train_on_kubernetes"


@pytest.fixture(scope="module")
def airflow(tmp_path_factory, kubernetes_namespace):
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "dags").mkdir()
    shutil.copy(EXAMPLE, folder / "dags")
    variable = "AIRFLOW_CONN_KUBERNETES_DEFAULT"
    found = deployment.Deployment(folder / "home", folder / "dags", {variable: os.environ[variable]})
    with found.running():
        yield found


@pytest.fixture(scope="module")
def run(airflow):
    found = airflow.trigger(DAG)
    states = airflow.wait_run(DAG, found)
    log = airflow.log(DAG, found, "train")
    assert states == dict.fromkeys(["preprocess", "train", "report"], "success"), log
    return found


def test_values_go_out_and_come_back(airflow, run):
    model = airflow.xcom(DAG, run, "train")
    assert abs(model["slope"] - 3) < 0.2
    assert len(model["losses"]) == 200, "more than a termination message holds"
    assert model["host"].startswith("s-")
    assert f"fitted on {model['host']}" in airflow.log(DAG, run, "report")


def test_the_task_log_has_the_lines_of_the_pod_and_no_pieces_of_the_outcome(airflow, run):
    events = [json.loads(line)["event"] for line in airflow.log(DAG, run, "train").splitlines()]
    assert len([event for event in events if event.startswith("loss ")]) == 1
    assert not [event for event in events if "STEPOP-FRAME" in event]


def test_nothing_of_a_step_that_succeeded_is_left(kubernetes_namespace, run):
    from kubernetes import client, config

    config.load_kube_config()
    core, batch = client.CoreV1Api(), client.BatchV1Api()

    def left():
        found = [
            *batch.list_namespaced_job(kubernetes_namespace).items,
            *core.list_namespaced_pod(kubernetes_namespace).items,
            *core.list_namespaced_secret(kubernetes_namespace).items,
        ]
        return [one.metadata.name for one in found]

    wait_until(left, "nothing to be left of the step", holds=lambda found: found == [], pause_s=0.5)
