"""Kill -9 and users' clicks at every point of a step's life: one job, no orphan, no lost result."""

from __future__ import annotations

import pytest

POINTS = (
    "intent",
    "submitted",
    "waiting",
    "finishing",
    "collected",
    "finishing_deferred",
    "collected_deferred",
)


def assert_no_orphan(airflow, mark):
    airflow.wait_for(lambda: not airflow.alive(mark), f"the processes of {mark} to end")


def start(airflow, dag_id, mark, state="running"):
    """Trigger a one-task DAG and return its run once the step runs and the task is in ``state``."""
    run = airflow.trigger(dag_id)
    airflow.wait_state(dag_id, run, "step", state)
    airflow.wait_for(lambda: airflow.count(f"{mark}.{run}") == 1, f"the step of {dag_id} to start")
    if state == "deferred":
        wait_for_trigger(airflow, dag_id, run)
    return run


def wait_for_trigger(airflow, dag_id, run):
    """Until the triggerer has taken the trigger, Airflow tells nobody that the task was ended: see docs,
    "Limits".
    """
    airflow.wait_state(dag_id, run, "step", "deferred")
    airflow.wait_for(lambda: "starting" in airflow.log(dag_id, run, "step"), "the trigger to start")


@pytest.fixture(scope="module")
def killed(airflow):
    """One run in which each worker was killed once, at the point that its task is named for."""
    run = airflow.trigger("kills")
    return run, airflow.wait_run("kills", run)


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_point_costs_nothing(airflow, killed, point):
    run, states = killed
    assert (airflow.marks / f"{point}.{run}.died").exists(), "the worker was not killed at all"
    assert states[point] == "success", airflow.log("kills", run, point)
    assert airflow.instance("kills", run, point)["try_number"] == 2
    assert airflow.count(f"{point}.{run}") == 1, "the step must have run exactly once"
    assert airflow.xcom("kills", run, point) == {"result.json": [point.removesuffix("_x")]}
    assert_no_orphan(airflow, f"{point}.{run}")


@pytest.mark.parametrize("slow", ["before", "after"])
def test_marked_failed_before_the_handle_is_known(airflow, slow):
    mark = f"slow_{slow}"
    run = airflow.trigger(f"user_{mark}")
    airflow.wait_for((airflow.marks / f"{mark}.{run}.submitting").exists, "the submit to begin")
    airflow.patch(f"user_{mark}", run, "step", "failed")
    airflow.wait_for(lambda: airflow.count(f"{mark}.{run}") <= 1, "the job")
    airflow.wait_for(lambda: job_is_over(airflow, run), "the job to be cancelled")
    assert_no_orphan(airflow, f"{mark}.{run}")
    assert airflow.state(f"user_{mark}", run, "step") == "failed"


def test_marked_failed_in_the_middle_of_a_question_to_airflow(airflow):
    """on_kill cannot ask why then: its channel is taken until the question is answered."""
    run = airflow.trigger("user_asking")
    airflow.wait_for((airflow.marks / f"asking.{run}.asking").exists, "the question")
    airflow.wait_for(lambda: airflow.count(f"asking.{run}") == 1, "the step to start")
    airflow.patch("user_asking", run, "step", "failed")
    assert_no_orphan(airflow, f"asking.{run}")
    log = airflow.log("user_asking", run, "step")
    assert "the job goes on" in log, "on_kill must have got no answer"
    assert "The task is failed: cancelling its job" in log
    assert airflow.count(f"asking.{run}") == 1


def job_is_over(airflow, run):
    import json

    for job in (airflow.home / "stepop" / "jobs").iterdir():
        request = job / "request.json"
        if request.exists() and json.loads(request.read_text())["labels"]["run_id"] == run:
            state = job / "state.json"
            return state.exists() and json.loads(state.read_text())["state"] == "cancelled"
    return False


@pytest.mark.parametrize(("dag_id", "mark"), [("user_running", "running"), ("user_deferred", "deferred")])
@pytest.mark.parametrize("new_state", ["failed", "success"])
def test_marked_by_a_user(airflow, dag_id, mark, new_state):
    run = start(airflow, dag_id, mark, mark)
    airflow.patch(dag_id, run, "step", new_state)
    assert_no_orphan(airflow, f"{mark}.{run}")
    assert airflow.state(dag_id, run, "step") == new_state
    assert airflow.count(f"{mark}.{run}") == 1


@pytest.mark.parametrize(("dag_id", "mark"), [("user_running", "running"), ("user_deferred", "deferred")])
def test_cleared_while_it_runs(airflow, dag_id, mark):
    run = start(airflow, dag_id, mark, mark)
    (first,) = airflow.pids(f"{mark}.{run}")
    airflow.clear(dag_id, run, "step")
    airflow.wait_for(lambda: airflow.count(f"{mark}.{run}") == 2, "the second generation")
    assert first not in airflow.alive(f"{mark}.{run}"), "the first job must be over before the second begins"
    if mark == "deferred":
        wait_for_trigger(airflow, dag_id, run)
    airflow.patch(dag_id, run, "step", "failed")
    assert_no_orphan(airflow, f"{mark}.{run}")
    assert airflow.count(f"{mark}.{run}") == 2


@pytest.mark.parametrize(
    ("dag_id", "mark"), [("user_quick", "quick"), ("user_quick_deferred", "quick_deferred")]
)
def test_cleared_after_success_runs_anew(airflow, dag_id, mark):
    run = airflow.trigger(dag_id)
    assert airflow.wait_run(dag_id, run) == {"step": "success"}
    airflow.clear(dag_id, run, "step")
    airflow.wait_for(lambda: airflow.count(f"{mark}.{run}") == 2, "the step to run again")
    assert airflow.wait_run(dag_id, run) == {"step": "success"}
    assert airflow.count(f"{mark}.{run}") == 2
    assert airflow.xcom(dag_id, run, "step") == {"result.json": [mark]}


@pytest.mark.parametrize(("dag_id", "mark"), [("user_late", "late"), ("user_late_running", "late_running")])
def test_execution_timeout_cancels_the_job(airflow, dag_id, mark):
    run = airflow.trigger(dag_id)
    assert airflow.wait_state(dag_id, run, "step", "failed") == "failed"
    assert_no_orphan(airflow, f"{mark}.{run}")
    assert airflow.count(f"{mark}.{run}") == 1
    if mark == "late":
        assert "execution_timeout passed and the step was cancelled" in airflow.log(dag_id, run, "step")


def test_two_deployments_never_share_a_job(airflow, tmp_path):
    """The same DAG, run id, job folder and store: each deployment has a job and a result of its own."""
    shared = {
        "AIRFLOW__STEPOP__LOCAL_FOLDER": str(airflow.home / "stepop" / "jobs"),
        "AIRFLOW__STEPOP__STORE": f"file://{airflow.home}/stepop/store",
        "AIRFLOW__STEPOP__DEPLOYMENT": "another",
    }
    other = type(airflow)(tmp_path / "other", airflow.dags, shared)
    try:
        other.up()
        for each in (airflow, other):
            each.trigger("user_quick", run_id="the-same-run")
        for each in (airflow, other):
            assert each.wait_run("user_quick", "the-same-run") == {"step": "success"}
            assert each.count("quick.the-same-run") == 1
            assert each.xcom("user_quick", "the-same-run", "step") == {"result.json": ["quick"]}
        owners = [
            j["labels"]["deployment"] for j in airflow.all_jobs() if j["labels"]["run_id"] == "the-same-run"
        ]
        assert sorted(owners) == ["another", "tests"]
    finally:
        other.down()


def test_triggerer_killed_while_waiting(airflow):
    run = start(airflow, "user_kept", "kept", "deferred")
    airflow.kill("triggerer")
    airflow.start("triggerer")
    airflow.let_go(f"kept.{run}")
    assert airflow.wait_run("user_kept", run) == {"step": "success"}
    assert airflow.count(f"kept.{run}") == 1
    assert airflow.xcom("user_kept", run, "step") == {"result.json": ["kept"]}
    assert airflow.instance("user_kept", run, "step")["try_number"] == 1
