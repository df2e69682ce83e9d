"""Steps whose cluster cannot be found: the error names the file, and nothing is said of a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("airflow.providers.cncf.kubernetes")
pytestmark = [pytest.mark.timeout(900)]

DAG_FILE = Path(__file__).parent / "dags" / "astray.py"
CONFIG = "/nowhere/kubeconfig"
ENV = {
    "AIRFLOW_CONN_ASTRAY": json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": CONFIG}}),
}


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(DAG_FILE, env=ENV)


def test_the_missing_kubeconfig_is_named(run):
    assert run.error("nowhere")["type"] == "StepConfigError"
    assert f"there is no file '{CONFIG}'" in run.error("nowhere")["text"]


def test_nothing_is_said_of_a_job_that_was_never_submitted(run):
    assert "could not be cancelled" not in run.log("nowhere")
    assert "could not be cancelled" not in run.log("untemplated")


def test_a_relative_template_is_looked_for_beside_the_dag(run):
    assert "/dags/templates/no.yaml'" in run.error("untemplated")["text"]
