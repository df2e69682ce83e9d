"""The states of a training job: ``TrainingJobStatus`` and ``SecondaryStatus``.

https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DescribeTrainingJob.html

No word of the two lists has two meanings, so one table has them all.
"""

from __future__ import annotations

from airflow_stepop.hooks.common.state_table import StateTable
from airflow_stepop.job import JobState

_STATUS = {
    "InProgress": JobState.RUNNING,  # the secondary status says more
    "Completed": JobState.SUCCEEDED,
    "Failed": JobState.FAILED,
    "Stopping": JobState.RUNNING,
    "Stopped": JobState.CANCELLED,  # or it ran out of time: the secondary status says so
}
# Within InProgress. The service no longer sends LaunchingMLInstances, PreparingTrainingStack and
# DownloadingTrainingImage; old records have them
_PHASE = {
    "Starting": JobState.PENDING,
    "Pending": JobState.PENDING,  # waits for capacity
    "LaunchingMLInstances": JobState.PENDING,
    "PreparingTrainingStack": JobState.PENDING,
    "Downloading": JobState.PENDING,
    "DownloadingTrainingImage": JobState.PENDING,
    "Interrupted": JobState.PENDING,  # the Spot machine was taken away; the job waits for another one
    "Restarting": JobState.PENDING,  # the service starts the job again after an error of its own
    "Training": JobState.RUNNING,
    "Updating": JobState.RUNNING,
    "Uploading": JobState.RUNNING,
}
_END = {
    "MaxRuntimeExceeded": JobState.FAILED,
    "MaxWaitTimeExceeded": JobState.FAILED,
}
STATES = StateTable("SageMaker", {**_STATUS, **_PHASE, **_END})
WAITS_AGAIN = frozenset({"Interrupted", "Restarting"})


def job_state(status: str, secondary: str = "") -> JobState:
    """Return the state of a job.

    :param status: ``TrainingJobStatus``. While it is ``Stopping``, the secondary status may still say
        ``Starting``: the job is not over
    :param secondary: ``SecondaryStatus``; empty if it is not known
    """
    if status == "Deleting":  # by DeleteTrainingJob, which takes only jobs that have ended
        return JobState.GONE
    state = STATES.of(status)
    if status == "Stopped" and secondary in _END:
        return _END[secondary]
    if state is not JobState.RUNNING or not secondary:
        return state
    phase = STATES.of(secondary)
    return state if phase.is_terminal else phase  # Completed while InProgress: the status follows soon
