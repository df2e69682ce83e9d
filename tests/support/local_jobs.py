"""Real jobs of the local backend, in a folder of the test.

The conftest of a folder imports the fixtures ``bench`` and ``running``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.hooks.local.supervisor import main as supervisor
from airflow_stepop.hooks.local.supervisor.linux import kill_marked
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.testing import Step, make_step
from tests.support.waiting import wait_until


class Bench:
    """Submits steps and reads their states and logs."""

    def __init__(self, folder: Path, system: str) -> None:
        self.folder = folder
        self.system = system
        self.hook = self.make_hook()
        self.steps: list[Step] = []

    def make_hook(self) -> LocalStepHook:
        return LocalStepHook(folder=self.folder, system=self.system)

    def step(self, call: Any, **options: Any) -> Step:
        self.steps.append(make_step(call, **options))
        return self.steps[-1]

    def python(self, code: str, **options: Any) -> Step:
        return self.step([sys.executable, "-c", code], **options)

    def submit(self, step: Step) -> JobHandle:
        return self.hook.submit(step.spec, step.payload)

    def status(self, handle: JobHandle) -> JobStatus:
        return self.hook.status([handle])[handle]

    def wait(self, handle: JobHandle) -> JobStatus:
        """Wait until the job is over."""
        return wait_until(
            lambda: self.status(handle),
            f"{handle} to end",
            holds=lambda status: status.state.is_terminal,
            explain=lambda: "\n".join(self.lines(handle)[-20:]),
        )

    def run(self, step: Step) -> tuple[JobHandle, JobStatus]:
        handle = self.submit(step)
        return handle, self.wait(handle)

    def lines(self, handle: JobHandle) -> list[str]:
        cursor, lines = None, []
        while chunk := self.hook.logs({handle: cursor}).get(handle):
            lines += [line.text for line in chunk.lines]
            cursor = chunk.cursor
        return lines

    def wait_for_line(self, handle: JobHandle, text: str) -> None:
        """Wait until the step has printed a line. Fail when the step ends without it."""
        _, lines = wait_until(
            lambda: (self.status(handle).state, self.lines(handle)),
            f"{handle} to print {text!r}",
            holds=lambda seen: text in seen[1] or seen[0].is_terminal,
        )
        assert text in lines

    def state(self, handle: JobHandle) -> dict[str, Any]:
        return json.loads((self.folder / handle.id / "state.json").read_text())

    def supervisor(self, handle: JobHandle) -> int:
        return self.state(handle)["pid"]


def prepared(bench: Bench, step: Step) -> JobFolder:
    """Prepare the job's folder as a submit does before it starts the supervisor."""
    from airflow_stepop.hooks.common.input_files import input_files

    folder = JobFolder(bench.folder / step.spec.name)
    folder.create(bench.hook.render(step.spec), input_files(step.payload, step.spec))
    return folder


def supervise(folder: JobFolder) -> subprocess.CompletedProcess[bytes]:
    """Run the supervisor of a job and wait for its end."""
    return subprocess.run([sys.executable, "-I", supervisor.__file__, folder.path], capture_output=True)


@pytest.fixture
def bench(tmp_path: Path, system: str) -> Iterator[Bench]:
    """The conftest that imports this fixture has a fixture ``system``: the system that the jobs run on."""
    bench = Bench(tmp_path / "jobs", system)
    yield bench
    for step in bench.steps:
        handle = bench.hook.lookup(step.spec)
        if handle is not None:
            bench.hook.cancel(handle)
            kill_marked(f"STEPOP_NONCE={step.spec.nonce}")
            bench.wait(handle)
            bench.hook.delete(handle)


@pytest.fixture
def running(bench: Bench) -> JobHandle:
    """A job whose step sleeps."""
    handle = bench.submit(bench.step(["sh", "-c", "echo running; sleep 600"]))
    bench.wait_for_line(handle, "running")
    assert bench.status(handle).state is JobState.RUNNING
    return handle
