"""Real jobs of the local backend, each in a folder of the test's own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.local.processes import kill_marked
from airflow_stepop.local.systems import LINUX, PORTABLE
from airflow_stepop.testing import Step, make_step

PATIENCE_S = 200.0


class Bench:
    """Submits steps and looks at what comes of them."""

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
        until(lambda: self.status(handle).state.is_terminal, f"{handle} to end")
        return self.status(handle)

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
        until(
            lambda: text in self.lines(handle) or self.status(handle).state.is_terminal,
            f"{handle} to print {text!r}",
        )
        assert text in self.lines(handle)

    def state(self, handle: JobHandle) -> dict[str, Any]:
        return json.loads((self.folder / handle.id / "state.json").read_text())

    def supervisor(self, handle: JobHandle) -> int:
        return self.state(handle)["pid"]


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S} s for {what}"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether ``pid`` still runs; a zombie that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def marked(nonce: str) -> list[int]:
    """Return the processes that carry the nonce of a job: its own, and what it has left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"STEPOP_NONCE={nonce}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture(params=[LINUX, PORTABLE])
def system(request: pytest.FixtureRequest) -> str:
    """Both ways to deal with the operating system: that of Linux, and that of every other, run on Linux."""
    return request.param


@pytest.fixture
def bench(tmp_path: Path, system: str) -> Iterator[Bench]:
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
