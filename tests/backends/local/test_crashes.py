"""SIGKILL for any process at any point: a step starts once, or at most once if its supervisor was killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.supervisor.systems import LINUX, PORTABLE
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.testing import Step
from tests.support.local_jobs import Bench
from tests.support.processes import of_job, parent_of
from tests.support.waiting import wait_until

DRIVER = Path(__file__).parent / "crash_driver.py"


@pytest.fixture(params=[LINUX, pytest.param(PORTABLE, marks=pytest.mark.long)])
def system(request: pytest.FixtureRequest) -> str:
    """Run with both systems' code. The portable code takes longer to notice a death."""
    return request.param


def drive(what: str, count: int, folder: Path) -> list[dict]:
    result = subprocess.run(
        [sys.executable, str(DRIVER), what, str(count), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def ends(bench: Bench, crash: dict) -> tuple[JobState, int]:
    """Return how the job ended and how often its step started; no process of the job may be left."""
    handle = JobHandle.from_json(crash["handle"])
    state = bench.wait(handle).state
    assert of_job(crash["nonce"]) == []
    assert not (bench.folder / handle.id / "in" / "secrets.json").exists()
    bench.hook.delete(handle)
    marks = Path(crash["marks"])
    return state, len(marks.read_text().splitlines()) if marks.exists() else 0


@pytest.mark.parametrize(("what", "count"), [("submit", 32), ("wait", 12)])
def test_a_submit_that_is_killed_anywhere_is_finished_by_the_next(
    bench: Bench, tmp_path: Path, what: str, count: int
) -> None:
    """Wherever the first submit died, the second one leads to exactly one start."""
    crashes = drive(what, count, tmp_path)
    assert {ends(bench, crash) for crash in crashes} == {(JobState.SUCCEEDED, 1)}
    assert [path.name for path in bench.folder.iterdir()] == [".new"]


def test_a_submit_that_is_killed_and_given_up_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    """A lookup finds the job, or it finds none, and then no folder, process or step is left."""
    crashes = drive("lookup", 40, tmp_path)
    found = [crash for crash in crashes if crash["handle"]]
    assert 0 < len(found) < len(crashes)
    assert {ends(bench, crash) for crash in found} == {(JobState.SUCCEEDED, 1)}
    assert [path.name for path in bench.folder.iterdir()] == [".new"]
    assert not [c for c in crashes if c not in found and (of_job(c["nonce"]) or Path(c["marks"]).exists())]


def test_a_supervisor_that_is_killed_anywhere_starts_at_most_once(bench: Bench, tmp_path: Path) -> None:
    """If the supervisor dies before its first state, the next submit starts the step.

    After that, the job has failed.
    """
    crashes = drive("supervisor", 30, tmp_path)
    seen = [ends(bench, crash) for crash in crashes]
    assert set(seen) <= {(JobState.SUCCEEDED, 1), (JobState.FAILED, 0), (JobState.FAILED, 1)}
    assert seen[0] == seen[-1] == (JobState.SUCCEEDED, 1)
    assert (JobState.FAILED, 0) in seen
    assert (JobState.FAILED, 1) in seen


def _submit(folder: Path, step: Step, barrier) -> None:
    hook = LocalStepHook(folder=folder)
    barrier.wait()
    hook.submit(step.spec, step.payload)


def test_submits_of_many_processes_start_one_step(bench: Bench, tmp_path: Path) -> None:
    """Eight processes submit at the same moment."""
    step = bench.step(["sh", "-c", f'echo started >> "{tmp_path}/marks"; sleep 0.3'])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["airflow_stepop.hooks.local", "airflow_stepop.testing"])
    barrier = context.Barrier(8)
    workers = [context.Process(target=_submit, args=(bench.folder, step, barrier)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    handle = bench.hook.lookup(step.spec)
    assert handle is not None
    assert bench.wait(handle).state is JobState.SUCCEEDED
    assert (tmp_path / "marks").read_text() == "started\n"


@pytest.mark.parametrize("seed", range(4))
def test_kills_at_random_moments(bench: Bench, tmp_path: Path, seed: int) -> None:
    """Kill any process of the job at any time: never two starts, an orphan, or a job without an end."""
    chance = random.Random(seed)
    for number in range(6):
        marks = tmp_path / f"marks-{number}"
        code = f'echo started >> "{marks}"; (setsid sleep 600 &); sleep 0.1'
        step = bench.step(["sh", "-c", code])
        handle = bench.submit(step)
        time.sleep(chance.uniform(0, 0.25))  # any moment will do, whatever has happened by then
        victims = [bench.supervisor(handle), *of_job(step.spec.nonce)]
        victim = chance.choice(victims)
        with suppress(ProcessLookupError):  # the process has ended
            os.kill(victim, signal.SIGKILL)
        bench.submit(step)
        status = bench.wait(handle)
        assert of_job(step.spec.nonce) == []
        # empty: killed after it opened the file and before it wrote
        assert not marks.exists() or marks.read_text() in ("", "started\n")
        assert bench.hook.submit(step.spec, step.payload) == handle
        assert bench.status(handle) == status
        if status.state is JobState.SUCCEEDED:
            assert bench.hook.outcome(handle).data


def test_a_killed_runner_is_a_failure_from_outside(bench: Bench) -> None:
    """The step dies with its runner, and the job reports the signal."""
    step = bench.step(["sh", "-c", "echo running; sleep 600"])
    handle = bench.submit(step)
    bench.wait_for_line(handle, "running")
    os.kill(runner_of(bench, handle, step.spec.nonce), signal.SIGKILL)
    status = bench.wait(handle)
    assert status.failure is not None
    assert status.failure.category is Category.INFRA
    assert status.failure.summary == "the step's process was killed from outside (SIGKILL)"
    assert status.failure.log_tail == ("running",)
    assert of_job(step.spec.nonce) == []
    with pytest.raises(OutcomeLostError):
        bench.hook.outcome(handle)


@pytest.fixture
def small_disk(bench: Bench):
    """Put the jobs on a disk of 3 MB."""
    bench.folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(bench.folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield bench.folder
    subprocess.run(["umount", "-l", str(bench.folder)], check=True)


def test_a_full_disk_does_not_lose_the_end(bench: Bench, small_disk: Path) -> None:
    """The step fills the disk of the jobs' folder. Its outcome and last state are written all the same."""
    wait = f"until grep -q before {small_disk}/s-full/log; do sleep 0.01; done"
    code = f"echo before; {wait}; cat /dev/zero > {small_disk}/fill 2> /dev/null; seq 100000; exit 3"
    step = bench.step(["sh", "-c", code], name="s-full")
    handle, status = bench.run(step)
    assert status.state is JobState.FAILED
    assert bench.hook.outcome(handle).data
    assert bench.state(handle)["usage"]["wall_s"] > 0
    assert bench.lines(handle)[0] == "before"
    (small_disk / "fill").unlink()
    bench.hook.delete(handle)
    assert bench.status(handle).state is JobState.GONE


def test_a_full_disk_refuses_a_submit_and_the_next_one_works(bench: Bench, small_disk: Path) -> None:
    """A job that could not be finished is not started."""
    (small_disk / "fill").write_bytes(bytes(3 * 2**20 - 4096 * 40))
    step = bench.step(["echo", "hi"])
    with pytest.raises(Exception, match="No space left on device"):
        bench.submit(step)
    (small_disk / "fill").unlink()
    handle, status = bench.run(step)
    assert status.state is JobState.SUCCEEDED
    assert bench.lines(handle) == ["hi"]
    wait_until(lambda: not of_job(step.spec.nonce), "the processes of the job to end")


def runner_of(bench: Bench, handle: JobHandle, nonce: str) -> int:
    """Return the supervisor's child that has the step's environment."""
    supervisor = bench.supervisor(handle)
    (runner,) = [pid for pid in of_job(nonce) if parent_of(pid) == supervisor]
    return runner
