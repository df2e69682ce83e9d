"""What the history of a training job says: the message for people, and how often the container has begun."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_stepop.hooks.sagemaker.status import has_run, status_of


def job(*history: str, message: str = "", status: str = "InProgress") -> dict[str, Any]:
    """Return the answer of DescribeTrainingJob for a job that went through ``history``."""
    entries = [{"Status": word, "StatusMessage": message} for word in history]
    return {
        "TrainingJobStatus": status,
        "SecondaryStatus": history[-1],
        "SecondaryStatusTransitions": entries,
    }


@pytest.mark.parametrize(
    ("secondary", "message"),
    [
        ("Starting", "Launching requested ML instances"),
        ("Starting", "Insufficient capacity error from EC2 while launching instances, retrying!"),
        ("Pending", "Training job waiting for capacity"),
        ("Downloading", "Downloading the training image"),
    ],
)
def test_a_job_that_waits_says_why(secondary: str, message: str) -> None:
    assert status_of(job(secondary, message=message)).message == message


@pytest.mark.parametrize(
    ("secondary", "message"),
    [
        ("Training", "Training image download completed. Training in progress."),
        ("Uploading", "Uploading generated training model"),
        ("Stopping", "Stopping the training job"),
    ],
)
def test_a_job_that_runs_is_in_no_trouble(secondary: str, message: str) -> None:
    """The task's log shows the message of a running job as trouble, and these texts are usual."""
    assert status_of(job("Starting", secondary, message=message)).message == ""


BEGUN = ("Starting", "Downloading", "Training")


@pytest.mark.parametrize(
    ("history", "attempts"),
    [
        ((*BEGUN, "Uploading"), None),
        ((*BEGUN, "Interrupted", *BEGUN), 2),
        ((*BEGUN, "Restarting", *BEGUN), 2),
        ((*BEGUN, "Interrupted", "Restarting", *BEGUN), 2),  # one interruption, in two words
        ((*BEGUN, "Interrupted", "Starting", "Interrupted", *BEGUN), 2),  # the second machine ran nothing
        (("Starting", "Interrupted", *BEGUN), None),
        ((*BEGUN, *BEGUN), 2),  # a restart without a word for it
        ((*BEGUN, "Updating", "Training"), None),
        ((*BEGUN, "Interrupted", *BEGUN, "Interrupted", *BEGUN), 3),
    ],
)
def test_attempts_are_those_of_the_container(history: tuple[str, ...], attempts: int | None) -> None:
    assert status_of(job(*history, "Completed", status="Completed")).usage.get("attempts") == attempts


@pytest.mark.parametrize(
    ("status", "history", "ran"),
    [
        ("Failed", ("Starting", "Downloading"), False),
        ("Failed", BEGUN, True),
        ("Stopped", ("Starting",), False),
        (
            "Completed",
            ("Starting", "Downloading", "Uploading"),
            True,
        ),  # it cannot complete without having run
        ("Failed", (), True),  # without a history nobody knows: the outcome is looked for
    ],
)
def test_only_a_container_that_has_run_can_have_an_outcome(
    status: str, history: tuple[str, ...], ran: bool
) -> None:
    found = job(*history, status, status=status) if history else {"TrainingJobStatus": status}
    assert has_run(found) is ran
