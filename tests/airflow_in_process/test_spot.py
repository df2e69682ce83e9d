"""A job whose machine was taken away is submitted again, and no retry is spent; up to a limit."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    limit = {"AIRFLOW__STEPOP__MAX_RESUBMISSIONS": "3"}
    return airflow_process.run(Path(__file__).parent / "dags" / "spot.py", env=limit)


def jobs(run, task):
    (path,) = run.place.marks.glob(f"spot-*-{task}")
    return path.read_text().split()


@pytest.mark.parametrize(
    ("task", "state", "tries", "job_count"),
    [
        ("preempted", "success", 1, 4),
        ("no_capacity", "success", 1, 4),
        ("deferred", "success", 1, 3),
        ("too_often", "failed", 1, 4),
        ("recovered", "success", 2, 6),
        ("infra", "failed", 1, 1),
    ],
)
def test_it_goes_on_without_a_retry(run, task, state, tries, job_count):
    run.assert_state(task, state)
    assert run.tries(task) == tries
    assert len(set(jobs(run, task))) == job_count


def test_the_log_counts(run):
    log = run.log("preempted")
    assert [f"the machine was taken away: resubmitting ({n} of 3)" in log for n in (1, 2, 3)] == [True] * 3


def test_the_last_failure_is_the_task_s(run):
    error = run.error("too_often")
    assert error["type"] == "StepFailedError"
    assert "why: preempted" in error["text"]


def test_no_job_stays(run, airflow_process):
    """Jobs that were taken away leave nothing behind, but for what ``keep`` keeps."""
    left = {path.name for path in (airflow_process.home / "stepop" / "jobs").iterdir()}
    assert left & set(jobs(run, "preempted")) == set()
    assert len(left & set(jobs(run, "too_often"))) == 1
