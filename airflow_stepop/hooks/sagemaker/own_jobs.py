"""Whether a training job is that of a handle. ``hook.py`` and ``region.py`` call it.

A training job that has ended can be deleted. Then its name is free, and another job with this name has the
same ARN. The new job has another time of creation, which the service sets. Most often it also has another
nonce. Only the whole record of a job has its variables, and so its nonce.

Source: https://docs.aws.amazon.com/sagemaker/latest/APIReference/API_DeleteTrainingJob.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_stepop.hooks.common.same_job import is_same_job, refuse_name
from airflow_stepop.hooks.sagemaker.request import about, is_ours
from airflow_stepop.job import JobHandle, StepSpec
from airflow_stepop.runner.protocol import ENV_NONCE

Json = dict[str, Any]


def instance_of(job: Mapping[str, Any]) -> str:
    """Return when a job was created, by the clock of the service: seconds since the epoch, as a text."""
    return f"{job['CreationTime'].timestamp():.3f}"


@dataclass(frozen=True)
class Identity:
    """What the whole record of a job says.

    :param nonce: empty: the job has none
    :param about: what the request says about the job; ``None``: it is no job of this package
    """

    nonce: str
    instance: str
    about: Json | None

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> Identity:
        environment = job.get("Environment") or {}
        return cls(str(environment.get(ENV_NONCE, "")), instance_of(job), about(environment))

    def is_of(self, handle: JobHandle) -> bool:
        return is_same_job(handle, nonce=self.nonce, instance=self.instance)


class OwnJobs:
    """Tells the jobs of handles from others.

    :param describe: returns the whole record of a job; ``None``: there is no job of this name
    """

    def __init__(self, describe: Callable[[str], Json | None]) -> None:
        self._describe = describe
        self._known: dict[tuple[str, str], Identity] = {}  # name, time of creation -> identity

    def record_of(self, handle: JobHandle) -> Json | None:
        """Return the whole record of a job; ``None`` if it is gone, also if another job has its name."""
        job = self._describe(handle.name)
        return job if job is not None and Identity.of(job).is_of(handle) else None

    def is_own(self, handle: JobHandle, job: Mapping[str, Any]) -> bool:
        """Return whether a job is that of the handle.

        :param job: the whole record, or a summary of a list. For a summary of a job that was created at
            another time than the handle says, the first call sends a request
        """
        if "StoppingCondition" in job:  # of each record, and of no summary
            return Identity.of(job).is_of(handle)
        if instance_of(job) == handle.instance or not (handle.nonce or handle.instance):
            return True
        known = self.identity_of(job)
        return known is None or known.is_of(handle)

    def identity_of(self, summary: Mapping[str, Any]) -> Identity | None:
        """Return the identity of a job in a list; ``None`` if the service does not find the job by its name.

        The first call for a job sends a request.
        """
        name = str(summary["TrainingJobName"])
        key = name, instance_of(summary)
        if key not in self._known:
            job = self._describe(name)
            if job is None:
                return None
            self._known[key] = Identity.of(job)
        return self._known[key]


def own_arn(job: Json | None, spec: StepSpec) -> str | None:
    """Return the ARN of the job if it is that of the step.

    :raises StepConfigError: a job of this name belongs to somebody else
    """
    if job is None:
        return None
    if not is_ours(job, spec.nonce):
        refuse_name("training job", spec.name)
    return str(job["TrainingJobArn"])
