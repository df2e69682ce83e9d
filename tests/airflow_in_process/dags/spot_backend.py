"""A backend whose machines are taken away: ``local``, but for the first jobs of each task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.local import LocalSettings, LocalStepHook
from airflow_stepop.job import JobState, JobStatus


class SpotSettings(LocalSettings):
    """How many jobs of a task lose their machine, and why."""

    lost: int = 0
    category: str = Category.PREEMPTED.value


class SpotStepHook(LocalStepHook):
    """Ends a job with its machine as soon as somebody looks at it."""

    backend: ClassVar[str] = "spot"
    settings_model = SpotSettings

    def render(self, spec):
        return {**super().render(spec), "spot": [spec.settings.lost, spec.settings.category]}

    def submit(self, spec, payload):
        with self._jobs(spec.labels).open("a") as file:
            file.write(f"{spec.name}\n")
        return super().submit(spec, payload)

    def status(self, handles):
        return {handle: self._status_of(handle, status) for handle, status in super().status(handles).items()}

    def _status_of(self, handle, status):
        category = self._taken(handle)
        if category is None or status.state is JobState.GONE:
            return status
        if not status.state.is_terminal:
            self.cancel(handle)
            return status
        return JobStatus(JobState.FAILED, Failure(Category(category), "the machine was taken away"))

    def outcome(self, handle):
        if self._taken(handle):
            raise OutcomeLostError("its machine is gone")
        return super().outcome(handle)

    def _taken(self, handle):
        request = self._job(handle).request()
        if request is None:
            return None
        lost, category = request["spot"]
        number = self._jobs(request["labels"]).read_text().splitlines().index(handle.name)
        return category if number < lost else None

    def _jobs(self, labels):
        return Path(os.environ["STEPOP_TEST_MARKS"]) / f"spot-{labels['run_id']}-{labels['task_id']}"
