"""The triggerer dies, loses a trigger to another one, or cannot create it: the job goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from airflow_stepop.triggers import FIRST_QUESTION_S

GROUP = "The triggerer"
STILL_DEFERRED = "goes on: the task is still deferred"


@pytest.fixture(scope="module")
def run(airflow):
    return airflow.trigger("crash_triggerer")


def test_a_trigger_that_breaks_leaves_the_job_alone(run, airflow, crashed):
    task = crashed("crash_triggerer", run, "broken")
    task.wait_started()
    task.wait_for_log("The trigger failed")
    task.touch("go")
    task.settle((GROUP, "cannot make the trigger"), state="success", log="The trigger failed")


def test_killed_while_waiting(run, airflow, crashed):
    task = crashed("crash_triggerer", run, "killed")
    task.wait_started(is_deferred=True)
    airflow.kill("triggerer")
    task.touch("go")  # the step ends while no triggerer watches
    airflow.start("triggerer")
    task.settle((GROUP, "is killed with `kill -9` while the task waits"), state="success", log="trigger")
    assert airflow.instance(*task.where)["try_number"] == 1


@pytest.mark.long
def test_a_trigger_that_moves_to_another_triggerer_leaves_the_job_alone(run, airflow, crashed):
    """Airflow calls on_kill for a trigger that another triggerer has adopted. The task is still deferred."""
    task = crashed("crash_triggerer", run, "moved")
    task.wait_started(is_deferred=True)
    task.wait_watched()
    # The triggerer asks its first question this long after its start. No log line tells that it has the
    # answer.
    time.sleep(FIRST_QUESTION_S + 10)
    starts = airflow.log(*task.where).count("starting")
    first = airflow.processes["triggerer"].pid
    os.killpg(first, signal.SIGSTOP)
    airflow.start("triggerer-2")
    try:
        airflow.wait_for(lambda: airflow.log(*task.where).count("starting") > starts, "adoption")
        os.killpg(first, signal.SIGCONT)
        task.wait_for_log(STILL_DEFERRED)
        assert airflow.alive(task.mark), "the job was killed though its trigger only moved"
        task.touch("go")
        title = (GROUP, "stands still, and another one takes the trigger; then it goes on")
        # a triggerer that gets a trigger back begins its log anew
        task.settle(title, state="success", log=STILL_DEFERRED, was_read=True)
    finally:
        airflow.kill("triggerer-2")
        airflow.kill("triggerer")
        airflow.start("triggerer")


def test_marked_before_a_triggerer_has_the_trigger(airflow, crashed):
    """Airflow then calls no on_kill: the job goes on until a sweep or its timeout."""
    airflow.kill("triggerer")
    task = crashed("crash_unwatched", airflow.trigger("crash_unwatched"), "step")
    task.wait_started()
    airflow.wait_state(*task.where, "deferred")
    airflow.patch(*task.where, "failed")
    airflow.start("triggerer")
    assert airflow.alive(task.mark), "somebody was told after all: update docs/concepts.md, Limits"
    airflow.run("stepop", "sweep", "--yes", "--min-age", "0")
    title = (GROUP, "is away when the task is marked failed; then `airflow stepop sweep --yes`")
    task.settle(title, state="failed", log="Pausing task as DEFERRED")


def can_unshare():
    try:
        return subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="needs unshare(1) and the right to make a UTS namespace")
def test_a_triggerer_on_another_host_says_so(run, airflow, crashed):
    """Only a local job's own host can see it.

    The task fails, and the job is neither called lost nor left running.
    """
    task = crashed("crash_triggerer", run, "elsewhere")
    task.wait_started()
    airflow.kill("triggerer")
    airflow.start("triggerer-3")
    try:
        log = "the triggerer cannot see local job"
        task.settle((GROUP, "is on another host, and the job is local"), state="failed", log=log)
        text = airflow.logs(*task.where)
        assert "and this is elsewhere" in text
        assert "Set deferrable=False" in text
    finally:
        airflow.kill("triggerer-3")
        airflow.start("triggerer")
