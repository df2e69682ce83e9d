"""The store is away for a while at each phase of a step, and every process that needs it waits."""

from __future__ import annotations

import os
import time

import pytest

GROUP = "The store (S3) cannot be reached for a while"
PHASES = {
    "submitting": ("when the argument is written", "waiting for s3://"),
    "fetching": ("when the step reads its argument", "stepop: reading part"),
    "writing": ("when the step writes its result", "stepop: writing the result"),
}
# must exceed the first seconds of waiting, which are not logged
AWAY_S = float(os.environ.get("STEPOP_AWAY_S", "10"))


@pytest.fixture(scope="module")
def run(airflow, crashed, s3_server):
    """One run whose tasks are in different phases while the connection to the store is cut."""
    run = airflow.trigger("crash_store")
    submitting, fetching, writing, written, reading = (
        crashed("crash_store", run, task_id) for task_id in (*PHASES, "written", "read_written")
    )
    for task in (submitting, fetching, written):
        task.touch("go")
    for task in (submitting, fetching, reading):
        task.wait_for("held")
    writing.wait_started()
    airflow.line.cut()
    for task in (submitting, fetching, reading):
        task.touch("let")
    writing.touch("go")
    time.sleep(AWAY_S)
    for task, phase in ((submitting, "submitting"), (fetching, "fetching"), (writing, "writing")):
        task.wait_for_log(PHASES[phase][1])
        assert airflow.state(*task.where) == "running"
    airflow.line.mend()
    return run


@pytest.mark.parametrize("phase", PHASES)
def test_away(run, airflow, crashed, phase):
    when, log = PHASES[phase]
    arrived = arrival(airflow, run, phase)
    crashed("crash_store", run, phase).settle((GROUP, when), state="success", log=log, has_value=arrived)


def test_away_when_the_result_is_read(run, airflow, crashed):
    """The reader is an ordinary task without retries."""
    title, arrived = (GROUP, "when another task reads the result"), arrival(airflow, run, "written")
    crashed("crash_store", run, "written").settle(
        title, state="success", log="Submitted: ", has_value=arrived
    )


def arrival(airflow, run, name):
    """Return a function that tells whether the task that reads the result has got it."""
    where = ("crash_store", run, f"read_{name}")
    return lambda: airflow.wait_state(*where) == "success"
