"""One local job from start to end, with everything that can go wrong on the way."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from airflow_stepop.exceptions import (
    OutcomeLostError,
    StepConfigError,
    StepInterruptedError,
    WrongHostError,
)
from airflow_stepop.failure import Category
from airflow_stepop.hooks.local import LocalSettings
from airflow_stepop.hooks.local.supervisor import main as supervisor
from airflow_stepop.hooks.local.supervisor import state as files
from airflow_stepop.hooks.local.supervisor.systems import PORTABLE
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.resources import ResourceSettings
from tests.support.local_jobs import Bench, prepared, supervise
from tests.support.processes import of_job, printed, started, those, wait_gone
from tests.support.waiting import wait_until

SUBMIT = """
import pickle, sys
from pathlib import Path
from airflow_stepop.hooks.local import LocalStepHook
step = pickle.loads(Path(sys.argv[2]).read_bytes())
LocalStepHook(folder=Path(sys.argv[1])).submit(step.spec, step.payload)
print("submitted", flush=True)
"""


# -- the worker that started the job


def test_a_job_outlives_its_worker_and_does_not_hold_its_pipes(bench: Bench, tmp_path: Path) -> None:
    """The worker ends and its session is killed: the job goes on, without the worker's pipes."""
    import pickle

    go = tmp_path / "go"
    step = bench.step(["sh", "-c", f"echo running; until [ -e {go} ]; do sleep 0.05; done; echo done"])
    (tmp_path / "step").write_bytes(pickle.dumps(step))
    submit = [sys.executable, "-c", SUBMIT + "import time; time.sleep(600)", bench.folder, tmp_path / "step"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started(submit, **pipes, start_new_session=True) as worker:
        assert b"submitted\n" in worker.stdout
        os.killpg(worker.pid, signal.SIGKILL)
        printed(worker)  # returns when no process holds the pipes any more
    handle = bench.hook.lookup(step.spec)
    assert handle is not None
    bench.wait_for_line(handle, "running")
    assert bench.status(handle).state is JobState.RUNNING
    go.touch()
    assert bench.wait(handle).state is JobState.SUCCEEDED
    assert bench.lines(handle) == ["running", "done"]


def opened_by(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed in the meantime
            yield os.readlink(path)


def test_the_supervisor_is_alone_and_light(bench: Bench, running: JobHandle) -> None:
    """The supervisor has a session of its own, no controlling terminal and no open file of its caller."""
    pid = bench.supervisor(running)
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    parent, session, terminal = int(fields[1]), int(fields[3]), int(fields[4])
    assert (session, terminal) == (pid, 0)
    assert parent != os.getpid()
    files = {path for path in opened_by(pid) if path.startswith("/") and not path.startswith("/proc/")}
    folder = str(bench.folder / running.id)
    assert files == {"/dev/null", *(f"{folder}/{name}" for name in ("lock", "log", "supervisor.log", "wake"))}
    rss = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert rss < 40 * 2**20


def test_the_supervisor_loads_the_standard_library_only() -> None:
    """The supervisor must start fast, whatever is installed."""
    script = f"import sys; sys.path.append({str(Path(supervisor.__file__).parents[4])!r})\n"
    script += "import airflow_stepop.hooks.local.supervisor.main\nprint(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, check=True
    ).stdout
    loaded = {name.partition(".")[0] for name in output.decode().split()} - {"airflow_stepop"}
    assert not {name for name in loaded if name not in sys.stdlib_module_names and name != "__main__"}
    assert not {"subprocess", "inspect", "asyncio", "importlib.metadata"} & set(output.decode().split())


def test_files_of_a_job_are_private(bench: Bench, running: JobHandle) -> None:
    """No other user can read the job's folder."""
    assert (bench.folder / running.id).stat().st_mode & 0o777 == 0o700


# -- cancel, timeout, shutdown


def test_cancel_returns_at_once_and_kills_after_the_grace_period(bench: Bench) -> None:
    """A step that ignores SIGTERM is killed at the end of its grace period."""
    step = bench.step(
        ["sh", "-c", "trap '' TERM; echo running; while :; do sleep 0.1; done"],
        settings=LocalSettings(grace_period_s=3.0),
    )
    handle = bench.submit(step)
    bench.wait_for_line(handle, "running")
    bench.hook.cancel(handle)
    assert bench.status(handle).state is JobState.RUNNING
    assert bench.wait(handle).state is JobState.CANCELLED
    assert of_job(step.spec.nonce) == []


def test_cancel_lets_the_step_clean_up(bench: Bench) -> None:
    """SIGTERM reaches the command, and the command may use the grace period."""
    handle = bench.submit(
        bench.step(["sh", "-c", "trap 'echo bye; exit 1' TERM; echo running; while :; do sleep 0.05; done"])
    )
    bench.wait_for_line(handle, "running")
    bench.hook.cancel(handle)
    assert bench.wait(handle).state is JobState.CANCELLED
    assert "bye" in bench.lines(handle)


def test_cancel_before_the_start_prevents_it(bench: Bench, tmp_path: Path) -> None:
    """Once a prepared job is cancelled, nothing can start it any more."""
    step = bench.step(["touch", str(tmp_path / "mark")])
    folder = prepared(bench, step)
    handle = bench.hook._handle(folder)
    assert bench.status(handle).state is JobState.PENDING
    bench.hook.cancel(handle)
    assert bench.status(handle).state is JobState.CANCELLED
    assert bench.submit(step) == handle
    assert bench.status(handle).state is JobState.CANCELLED
    assert not (tmp_path / "mark").exists()


def test_a_supervisor_that_finds_a_cancellation_starts_nothing(bench: Bench, tmp_path: Path) -> None:
    """The cancel comes between the submit's preparation and the supervisor's start."""
    folder = prepared(bench, bench.step(["touch", str(tmp_path / "mark")]))
    (folder.path / "start").touch()
    (folder.path / "cancel").touch()
    assert supervise(folder).returncode == supervisor.EXIT_SUPERVISED
    assert bench.status(bench.hook._handle(folder)).state is JobState.CANCELLED
    assert not (tmp_path / "mark").exists()


def test_a_lookup_that_found_no_job_withdraws_it(bench: Bench, tmp_path: Path) -> None:
    """A lookup has returned no job, so the supervisor that a dead worker left behind may not start it."""
    step = bench.step(["touch", str(tmp_path / "mark")])
    folder = prepared(bench, step)
    (folder.path / "start").touch()
    assert bench.hook.lookup(step.spec) is None
    assert supervise(folder).returncode == supervisor.EXIT_FAILED
    assert not folder.path.exists()
    with pytest.raises(StepInterruptedError, match="was withdrawn while it was being submitted"):
        folder.start({})
    handle, status = bench.run(step)  # a new submit permits the start again
    assert status.state is JobState.SUCCEEDED
    assert bench.hook.lookup(step.spec) == handle


def test_a_supervisor_that_takes_long_to_start_is_no_missing_job(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor holds the job's lock and has not written a state yet, like a stopped process."""
    step = bench.step(["true"])
    folder = prepared(bench, step)
    monkeypatch.setattr(supervisor, "LOCK_TIMEOUT_S", 0.1)
    with open(folder.path / files.LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        handle = bench.hook.lookup(step.spec)
        assert handle is not None
        with pytest.raises(StepConfigError, match="is still running"):
            bench.hook.delete(handle)
        assert folder.path.exists()
    assert bench.hook.lookup(step.spec) is None


def test_the_timeout_needs_no_airflow(bench: Bench) -> None:
    """Nobody asks for the status.

    The job ends all the same, and its processes that ignore SIGTERM are killed.
    """
    # retried with a longer timeout if the step was too slow to print its line
    for timeout_s in (2.0, 10.0, 50.0):
        step = bench.step(
            ["sh", "-c", "trap '' TERM; echo running; while :; do sleep 0.1; done"],
            timeout_s=timeout_s,
            settings=LocalSettings(grace_period_s=0.3),
        )
        handle = bench.submit(step)
        wait_until(lambda: bench.state(handle)["finished_at"], "the end of the job")  # noqa: B023 - called here
        assert of_job(step.spec.nonce) == []
        if bench.lines(handle):
            break
    assert bench.state(handle)["usage"]["wall_s"] >= timeout_s
    status = bench.status(handle)
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.category is Category.TIMEOUT
    said = f"the step ran longer than its timeout of {timeout_s:g} s and was stopped"
    assert status.failure.summary == said
    assert status.failure.log_tail == ("running",)


def test_a_supervisor_that_is_told_to_stop_says_so(bench: Bench, running: JobHandle) -> None:
    """A shutdown of the host is not reported as a cancellation."""
    os.kill(bench.supervisor(running), signal.SIGTERM)
    status = bench.wait(running)
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.category is Category.INFRA
    assert "told to stop (SIGTERM)" in status.failure.summary


def test_a_killed_supervisor_takes_everything_with_it(bench: Bench) -> None:
    """All processes of the step end, daemons too. The next status reports the cause, and later ones agree."""
    step = bench.step(["sh", "-c", "setsid sleep 600 & (setsid sleep 600 &) ; echo running; sleep 600"])
    handle = bench.submit(step)
    bench.wait_for_line(handle, "running")
    wait_until(lambda: of_job(step.spec.nonce), "the daemons", holds=lambda pids: len(pids) >= 5)
    os.kill(bench.supervisor(handle), signal.SIGKILL)
    bench.wait(handle)
    assert of_job(step.spec.nonce) == []
    status = bench.status(handle)
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.category is Category.INFRA
    assert status.failure.summary == (
        "the supervisor of the job was killed; nothing of the step runs any more, and its outcome is lost"
    )
    assert bench.make_hook().status([handle])[handle] == status
    with pytest.raises(OutcomeLostError, match=f"{handle} left no outcome"):
        bench.hook.outcome(handle)
    assert not Path(bench.state(handle)["tmp"]).exists()
    bench.hook.delete(handle)


def test_cancel_of_an_orphan_kills_it(bench: Bench) -> None:
    """The supervisor is dead, so cancel itself kills the step."""
    step = bench.step(["sh", "-c", "echo running; sleep 600"])
    handle = bench.submit(step)
    bench.wait_for_line(handle, "running")
    os.kill(bench.supervisor(handle), signal.SIGKILL)
    wait_gone([bench.supervisor(handle)], "the supervisor")
    bench.hook.cancel(handle)
    assert of_job(step.spec.nonce) == []
    assert bench.status(handle).state.is_terminal


def test_a_reused_pid_is_not_the_supervisor(bench: Bench, running: JobHandle) -> None:
    """Only the lock tells whether the supervisor lives.

    A recorded pid that another process now has is left alone.
    """
    path = bench.folder / running.id / "state.json"
    os.kill(bench.supervisor(running), signal.SIGKILL)
    with started(["sleep", "600"]) as bystander:
        path.write_text(json.dumps({**json.loads(path.read_text()), "pid": bystander.pid}))
        bench.hook.cancel(running)
        bench.wait(running)
        assert bystander.poll() is None


def test_a_restart_of_the_host_is_recognised(bench: Bench, running: JobHandle) -> None:
    """The state has another boot id than the host."""
    path = bench.folder / running.id / "state.json"
    os.kill(bench.supervisor(running), signal.SIGKILL)
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "another"}))
    bench.wait(running)
    failure = bench.status(running).failure
    assert failure is not None
    assert failure.summary.startswith("the host restarted during the job; nothing of the step runs any more")


# -- leftovers


DAEMONS = {
    "background": "sleep 600 &",
    "session": "setsid sleep 600 &",
    "double fork": "(setsid sh -c 'sleep 600 & sleep 600' &);",
    "clean environment": "env -i $(which setsid) $(which sleep) 600 &",
    "nohup with other output": "nohup setsid sleep 600 > /dev/null 2>&1 &",
}


@pytest.mark.parametrize("how", DAEMONS)
def test_nothing_survives_the_end_of_a_step(bench: Bench, how: str) -> None:
    """All processes that the step started are killed when it returns, and none delays the job's end."""
    if (how, bench.system) == ("clean environment", PORTABLE):
        pytest.skip("who leaves parent, session and environment at once is known to Linux alone")
    code = f"{DAEMONS[how]} sleep 0.1; echo done"
    step = bench.step(["sh", "-c", code])
    handle, status = bench.run(step)  # bench gives up long before the sleepers end
    assert status.state is JobState.SUCCEEDED
    assert bench.lines(handle) == ["done"]
    assert sleepers(bench, handle) == []


def sleepers(bench: Bench, handle: JobHandle) -> list[int]:
    """Return the processes that work in the job's temporary folder, whatever their environment says."""
    tmp = bench.state(handle)["tmp"]
    return those(lambda process: os.readlink(process / "cwd").startswith(tmp))


@pytest.mark.parametrize("how", DAEMONS)
def test_nothing_survives_a_cancel(bench: Bench, how: str) -> None:
    """A cancel kills daemons too."""
    step = bench.step(["sh", "-c", f"{DAEMONS[how]} echo running; sleep 600"])
    handle = bench.submit(step)
    bench.wait_for_line(handle, "running")
    assert len(sleepers(bench, handle)) >= 2
    bench.hook.cancel(handle)
    assert bench.wait(handle).state is JobState.CANCELLED
    assert sleepers(bench, handle) == []


def test_temporary_files_end_with_the_job(bench: Bench) -> None:
    """They go even if the runner is killed before it removes them. Other files of the user stay."""
    step = bench.python("import os, tempfile; open(tempfile.mkstemp()[1], 'w').write('x'); os.kill(0, 9)")
    handle, status = bench.run(step)
    assert status.state is JobState.FAILED
    wait_until(lambda: not Path(bench.state(handle)["tmp"]).exists(), "the supervisor to tidy up")


def test_delete_of_a_running_job_is_refused(bench: Bench, running: JobHandle) -> None:
    """The supervisor would lose its folder."""
    with pytest.raises(StepConfigError, match="is still running; cancel it before it is deleted"):
        bench.hook.delete(running)
    assert bench.status(running).state is JobState.RUNNING


def test_an_interrupted_delete_is_a_delete(bench: Bench) -> None:
    """The folder disappears at once. A later submit removes what a crash left of it."""
    handle, _ = bench.run(bench.step(["true"]))
    trash = bench.folder / ".new" / f"{handle.id}.0000"
    (bench.folder / handle.id).rename(trash)
    os.utime(trash, (0, 0))
    assert bench.status(handle).state is JobState.GONE
    bench.run(bench.step(["true"]))
    assert not trash.exists()


def test_room_for_the_last_state_is_taken_where_the_system_has_no_call_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no call that reserves blocks, so the blocks are written."""
    monkeypatch.delattr(os, "posix_fallocate")
    files.reserve_space(str(tmp_path))
    assert (tmp_path / files.RESERVE).stat().st_size == files.RESERVE_BYTES
    assert (tmp_path / files.RESERVE).stat().st_blocks * 512 >= files.RESERVE_BYTES


# -- limits


def test_a_step_over_its_memory_is_killed_with_its_children(bench: Bench) -> None:
    """The memory of all processes is added up. The message has the sum, the limit and a remedy."""
    grow = "b = bytearray(120_000_000); import time; time.sleep(60)"
    step = bench.python(
        f"import subprocess as s, sys\np = [s.Popen([sys.executable, '-c', {grow!r}]) for _ in range(2)]\n"
        "p[0].wait()",
        resources=ResourceSettings(memory="200MB"),
    )
    handle, status = bench.run(step)
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.category is Category.OOM
    assert "of memory, its limit is 191 MiB; it was killed" in status.failure.summary
    assert status.failure.hint == "raise ResourceSettings(memory=...)"
    assert bench.state(handle)["usage"]["peak_memory_bytes"] > 200_000_000
    assert of_job(step.spec.nonce) == []


def test_shared_memory_counts_once(bench: Bench) -> None:
    """The shared memory of forked workers that read one large array is counted once."""
    if bench.system == PORTABLE:
        pytest.skip("only Linux tells which pages are shared")
    step = bench.python(
        "import os, time\nb = bytearray(90_000_000)\n"
        # long enough for several measurements; with fewer, the sum can only be smaller
        "for _ in range(4):\n    if os.fork() == 0:\n        time.sleep(0.6); os._exit(0)\n"
        "for _ in range(4): os.wait()",
        resources=ResourceSettings(memory="190MB"),
    )
    _, status = bench.run(step)
    assert status.state is JobState.SUCCEEDED, status.failure


def test_the_peak_of_memory_and_the_time_are_recorded(bench: Bench) -> None:
    """They are recorded without a limit, too."""
    handle, _ = bench.run(bench.python("b = bytearray(100_000_000); sum(range(3_000_000))"))
    usage = bench.state(handle)["usage"]
    assert 100_000_000 < usage["peak_memory_bytes"] < 200_000_000
    assert usage["cpu_s"] > 0
    assert usage["wall_s"] > 0


def test_cpu_count_is_an_affinity(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    """The step sees as many CPUs as it asked for, rounded up.

    Where a system has no affinity, a warning says so.
    """
    step = bench.python(
        "import os; print(len(os.sched_getaffinity(0)))", resources=ResourceSettings(cpu_count=0.5)
    )
    handle, _ = bench.run(step)
    warning = capsys.readouterr().out
    if bench.system == PORTABLE:
        assert "cpu_count is not enforced on this operating system" in warning
    else:
        assert bench.lines(handle) == ["1"]
        assert "not enforced" not in warning


def test_the_kernel_prefers_to_kill_the_step(bench: Bench) -> None:
    """When the host runs out of memory, the kernel kills the step rather than Airflow."""
    if bench.system == PORTABLE:
        pytest.skip("only Linux can be told whom to kill first")
    handle, _ = bench.run(bench.step(["cat", "/proc/self/oom_score_adj"]))
    assert int(bench.lines(handle)[0]) >= 500


# -- errors at the start


def test_a_file_that_is_no_interpreter_fails_the_job(bench: Bench, tmp_path: Path) -> None:
    """The file is executable but no program, and the failure says so."""
    (tmp_path / "python").write_text("no program")
    (tmp_path / "python").chmod(0o755)
    _, status = bench.run(bench.step(["true"], settings=LocalSettings(python=str(tmp_path / "python"))))
    assert status.failure is not None
    assert status.failure.category is Category.BAD_CONFIG
    assert "could not be started" in status.failure.summary
    assert "LocalSettings(python=...)" in status.failure.hint


def test_another_python_runs_a_command(bench: Bench) -> None:
    """A command runs with another interpreter than the worker's."""
    others = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python"))
    if not others:
        pytest.skip("no other Python here")
    handle, status = bench.run(bench.step(["echo", "hi"], settings=LocalSettings(python=str(others[-1]))))
    assert status.state is JobState.SUCCEEDED, bench.lines(handle)


# -- hosts


def test_a_job_of_another_host_says_what_to_do(bench: Bench) -> None:
    """Every call fails; the message names both hosts and what can be done."""
    handle = JobHandle("local", None, "far-away", "s-x", "s-x", {"folder": str(bench.folder)})
    hook = bench.hook
    many = (lambda one: hook.status([one]), lambda one: hook.logs({one: None}))
    for verb in (hook.outcome, hook.cancel, hook.delete, *many):
        with pytest.raises(WrongHostError) as caught:
            verb(handle)
        assert "local job s-x runs on the host far-away, and this is " in str(caught.value)
        assert "Use deferrable=False" in str(caught.value)
        assert "or a remote backend" in str(caught.value)


# -- many jobs


def test_status_and_logs_of_many_jobs(bench: Bench) -> None:
    """One call each, and one size limit for the logs of all jobs together."""
    import shutil

    first, _ = bench.run(bench.step(["sh", "-c", "head -c 200000 /dev/zero | tr '\\0' x | fold -w 100"]))
    handles = []
    for number in range(300):
        name = f"s-many-{number}"
        shutil.copytree(
            bench.folder / first.id, bench.folder / name, ignore=shutil.ignore_patterns("in", "log", "wake")
        )
        os.link(bench.folder / first.id / "log", bench.folder / name / "log")
        handles.append(JobHandle("local", None, first.scope, name, name, first.detail))
    statuses = bench.hook.status(handles)
    assert {status.state for status in statuses.values()} == {JobState.SUCCEEDED}
    chunks = bench.hook.logs(dict.fromkeys(handles))
    assert len(chunks) == 300
    assert sum(len(line.text) for chunk in chunks.values() for line in chunk.lines) < 40 * 2**20
