"""Every status and secondary status of the service has a state."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_stepop.hooks.sagemaker.states import STATES, WAITS_AGAIN, job_state
from airflow_stepop.job import JobState


@pytest.fixture(scope="module")
def words() -> dict[str, set[str]]:
    """The words of the service, from the model of the installed botocore."""
    import botocore.session

    model: Any = botocore.session.get_session().get_service_model("sagemaker")
    return {name: set(model.shape_for(name).enum) for name in ("TrainingJobStatus", "SecondaryStatus")}


def test_the_table_is_total(words: dict[str, set[str]]) -> None:
    """A job that is being deleted is gone. No table of states may say so of a word alone."""
    assert {*STATES.states, "Deleting"} == words["TrainingJobStatus"] | words["SecondaryStatus"]


def test_only_an_end_is_terminal(words: dict[str, set[str]]) -> None:
    """Whatever the secondary status says, a job that is in progress or stopping is not over."""
    for secondary in words["SecondaryStatus"]:
        for status in ("InProgress", "Stopping"):
            assert not job_state(status, secondary).is_terminal
        for status in ("Completed", "Failed", "Stopped", "Deleting"):
            assert job_state(status, secondary).is_terminal


@pytest.mark.parametrize(
    ("status", "secondary", "state"),
    [
        ("InProgress", "Starting", JobState.PENDING),
        ("InProgress", "Pending", JobState.PENDING),
        ("InProgress", "LaunchingMLInstances", JobState.PENDING),
        ("InProgress", "PreparingTrainingStack", JobState.PENDING),
        ("InProgress", "Downloading", JobState.PENDING),
        ("InProgress", "DownloadingTrainingImage", JobState.PENDING),
        ("InProgress", "Interrupted", JobState.PENDING),
        ("InProgress", "Restarting", JobState.PENDING),
        ("InProgress", "Training", JobState.RUNNING),
        ("InProgress", "Uploading", JobState.RUNNING),
        ("InProgress", "Updating", JobState.RUNNING),
        ("InProgress", "Completed", JobState.RUNNING),  # the status follows soon
        ("InProgress", "", JobState.RUNNING),
        ("InProgress", "SomethingNew", JobState.RUNNING),
        ("Stopping", "Starting", JobState.PENDING),  # the service leaves the secondary status as it was
        ("Stopping", "Training", JobState.RUNNING),
        ("Stopping", "Stopping", JobState.RUNNING),
        ("Completed", "Completed", JobState.SUCCEEDED),
        ("Failed", "Failed", JobState.FAILED),
        ("Stopped", "Stopped", JobState.CANCELLED),
        ("Stopped", "MaxRuntimeExceeded", JobState.FAILED),
        ("Stopped", "MaxWaitTimeExceeded", JobState.FAILED),
        ("Deleting", "", JobState.GONE),
    ],
)
def test_the_state_of_a_job(status: str, secondary: str, state: JobState) -> None:
    assert job_state(status, secondary) is state


def test_a_job_that_waits_again_is_pending() -> None:
    assert all(STATES.of(word) is JobState.PENDING for word in WAITS_AGAIN)
