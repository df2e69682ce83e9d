"""Interruptions that must not end a job: a worker that shuts down, a trigger that moves or breaks."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

STILL_DEFERRED = "goes on: the task is still deferred"


def start(airflow, dag_id, mark, state):
    run = airflow.trigger(dag_id)
    airflow.wait_state(dag_id, run, "step", state)
    airflow.wait_for(lambda: airflow.count(f"{mark}.{run}") == 1, f"the step of {dag_id} to start")
    return run


def test_a_worker_that_is_asked_to_end_leaves_the_job_alone(airflow):
    """A spot machine under the worker goes away: SIGTERM, while the task is still running for Airflow."""
    run = start(airflow, "user_kept_running", "kept_running", "running")
    worker = int((airflow.marks / f"kept_running.{run}.worker").read_text())
    os.kill(worker, signal.SIGTERM)
    airflow.wait_for(lambda: "the job goes on" in airflow.log("user_kept_running", run, "step"), "on_kill")
    os.kill(worker, signal.SIGKILL)
    airflow.let_go(f"kept_running.{run}")
    assert airflow.wait_run("user_kept_running", run) == {"step": "success"}
    assert airflow.count(f"kept_running.{run}") == 1
    assert airflow.xcom("user_kept_running", run, "step") == {"result.json": ["kept_running"]}


def test_a_trigger_that_moves_to_another_triggerer_leaves_the_job_alone(airflow):
    """Airflow calls on_kill for a trigger that another triggerer has adopted; the task is still deferred."""
    run = start(airflow, "user_moved", "moved", "deferred")
    airflow.wait_for(lambda: "starting" in airflow.log("user_moved", run, "step"), "the trigger to start")
    first = airflow.processes["triggerer"].pid
    os.killpg(first, signal.SIGSTOP)
    airflow.start("triggerer-2")
    try:
        airflow.wait_for(lambda: airflow.log("user_moved", run, "step").count("starting") == 2, "adoption")
        os.killpg(first, signal.SIGCONT)
        airflow.wait_for(lambda: STILL_DEFERRED in airflow.log("user_moved", run, "step"), "on_kill")
        assert airflow.alive(f"moved.{run}"), "the job was killed though its trigger only moved"
        airflow.let_go(f"moved.{run}")
        assert airflow.wait_run("user_moved", run) == {"step": "success"}
        assert airflow.count(f"moved.{run}") == 1
    finally:
        airflow.kill("triggerer-2")
        airflow.kill("triggerer")
        airflow.start("triggerer")


def test_a_trigger_that_breaks_leaves_the_job_alone(airflow):
    run = airflow.trigger("user_broken")
    assert airflow.wait_run("user_broken", run) == {"step": "success"}
    assert airflow.count(f"broken.{run}") == 1
    assert airflow.xcom("user_broken", run, "step") == {"result.json": ["broken"]}
    assert "The trigger failed" in airflow.log("user_broken", run, "step")


def can_unshare():
    try:
        return subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="needs unshare(1) and the right to make a UTS namespace")
def test_a_triggerer_on_another_host_says_so(airflow):
    """A local job can be seen from its own host only: it is neither called lost nor left running."""
    airflow.kill("triggerer")
    airflow.start("triggerer-3")
    try:
        run = start(airflow, "user_deferred", "deferred", "deferred")
        assert airflow.wait_run("user_deferred", run) == {"step": "failed"}
        log = airflow.log("user_deferred", run, "step", try_number=1)
        assert "the triggerer cannot see local job" in log
        assert "and this is elsewhere" in log
        assert "Set deferrable=False" in log
        airflow.wait_for(lambda: not airflow.alive(f"deferred.{run}"), "the job to be cancelled")
    finally:
        airflow.kill("triggerer-3")
        airflow.start("triggerer")
