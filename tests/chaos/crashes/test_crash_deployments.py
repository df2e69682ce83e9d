"""Two deployments that share everything but their names and databases."""

from __future__ import annotations

import pytest

RUN = "the-same-run"


@pytest.fixture
def other(airflow, tmp_path):
    shared = {
        "AIRFLOW__STEPOP__LOCAL_FOLDER": str(airflow.home / "stepop" / "jobs"),
        "AIRFLOW__STEPOP__STORE": f"file://{airflow.home}/stepop/store",
        "AIRFLOW__STEPOP__DEPLOYMENT": "another",
    }
    other = type(airflow)(tmp_path / "other", airflow.dags, shared)
    try:
        other.up()
        yield other
    finally:
        other.down()


@pytest.mark.long
def test_two_deployments_never_share_a_job(airflow, other, crashed):
    """Same DAG, run id, job folder and store: each deployment has its own job and its own result."""
    task = crashed("crash_deployments", RUN, "step")
    for each in (airflow, other):
        each.trigger(task.dag_id, run_id=RUN)
        (each.marks / f"{task.mark}.go").touch()
    assert other.wait_run(task.dag_id, RUN) == {"step": "success"}
    assert other.count(task.mark) == 1
    assert other.xcom(*task.where) == {"result.json": ["step"]}
    title = ("Two deployments", "run the same DAG with the same run id, job folder and store")
    task.settle(title, state="success", log="Submitted: ")
    owners = [job["labels"]["deployment"] for job in airflow.jobs_of(*task.where)]
    assert sorted(owners) == ["another", "tests"]
