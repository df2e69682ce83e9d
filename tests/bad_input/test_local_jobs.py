"""Damaged files of a local job, during and after its run; full disks; a system clock that is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_stepop.exceptions import IntegrityError, StepInterruptedError, StepopError, StoreError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.local.supervisor.log import END_OF_TIME, LogPosition, read_records
from airflow_stepop.hooks.local.supervisor.systems import LINUX
from airflow_stepop.job import JobHandle, JobState, LogLine
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.payload.spill import spill
from airflow_stepop.waiting.deadlines import Clock
from airflow_stepop.waiting.task_log import TaskLog
from tests.support.damage import bomb, inline, report_of
from tests.support.local_jobs import Bench
from tests.support.needs import needs
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.corpus

STATES = {
    "nothing": b"",
    "half of it": b'{"state": "succ',
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "a pickle": bomb(),
    "deeper than any stack": b"[" * 100_000,
    "an object of nothing": b"{}",
    "NUL, as after a power failure": bytes(500),
}
FIELDS = {
    "state": [None, "done", 1, []],
    "finished_at": ["now", True, float("nan"), 10**400],
    "failure": ["text", [], {"category": "moon", "summary": "x"}, {"category": "oom"}],
    "receipt": ["text", [], {}, {"digest": 1}, {"digest": "0", "outcome": 1}],
    "started_at": ["now"],  # None is valid: the job waits for a GPU
    "tmp": [1, None],
    "boot_id": [1],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A job that has ended."""
    bench = Bench(tmp_path_factory.mktemp("done") / "jobs", LINUX)
    step = bench.step(["echo", "hello"])
    handle, status = bench.run(step)
    assert status.state is JobState.SUCCEEDED
    return bench, step, handle


@pytest.fixture
def copy(done, tmp_path):
    """A copy of that job, in a folder of the test's own."""
    source, _, handle = done
    bench = Bench(tmp_path / "jobs", LINUX)
    shutil.copytree(source.folder, bench.folder, ignore=shutil.ignore_patterns("wake"))
    return bench, JobHandle(**{**handle.to_json(), "detail": {"folder": str(bench.folder)}})


def _damage(bench, handle, name, data):
    (bench.folder / handle.id / name).write_bytes(data)


@pytest.mark.parametrize("case", STATES)
def test_a_damaged_state_ends_the_job(copy, case):
    """No task waits for ever: without a supervisor, no process will write the state again."""
    bench, handle = copy
    _damage(bench, handle, "state.json", STATES[case])
    status = bench.status(handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.INFRA
    assert f"{handle.id}/state.json" in status.failure.summary
    assert "the outcome of the step is lost" in status.failure.summary
    with pytest.raises(StepopError, match="left no outcome"):
        bench.hook.outcome(handle)
    bench.hook.cancel(handle)
    bench.hook.delete(handle)
    assert bench.status(handle).state is JobState.GONE


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _link(path):
    path.unlink()
    path.symlink_to("/dev/zero")


def _huge(path):
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("put", [_pipe, _link, _huge])
def test_a_state_that_is_no_file_of_ours_ends_the_job(copy, put):
    """A step may put anything in the place of its state. The triggerer, which watches all jobs, goes on."""
    bench, handle = copy
    put(bench.folder / handle.id / "state.json")
    status = bench.status(handle)
    assert status.state is JobState.FAILED
    assert "state.json is damaged" in status.failure.summary
    assert bench.status(handle) == status


@pytest.mark.parametrize("put", [_pipe, _link])
def test_an_outcome_that_is_no_file_is_refused(copy, put):
    bench, handle = copy
    receipt = {**bench.state(handle)["receipt"]}
    del receipt["outcome"]
    state = {**bench.state(handle), "receipt": receipt}
    (bench.folder / handle.id / "state.json").write_text(json.dumps(state))
    put(bench.folder / handle.id / "out" / "outcome.json")
    with pytest.raises(OSError, match=r"no file|symbolic link"):
        bench.hook.outcome(handle)


@pytest.mark.parametrize("put", [_pipe, _link])
def test_a_log_that_is_no_file_is_an_error(copy, put):
    bench, handle = copy
    put(bench.folder / handle.id / "log")
    with pytest.raises(OSError, match=r"no file|symbolic link"):
        bench.hook.logs({handle: None})


def test_files_beside_the_log_are_no_part_of_it(copy):
    bench, handle = copy
    for name in ("log.\u00b2", "log." + "9" * 200, "log.x", "log.-1"):
        (bench.folder / handle.id / name).write_bytes(b"forged\n")
    (chunk,) = bench.hook.logs({handle: None}).values()
    assert [line.text for line in chunk.lines] == ["hello"]


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in FIELDS.items() for value in values], ids=repr
)
def test_a_damaged_field_of_the_state(copy, field, value):
    bench, handle = copy
    _damage(bench, handle, "state.json", json.dumps({**bench.state(handle), field: value}).encode())
    status = bench.status(handle)
    assert status.state is JobState.FAILED
    assert field in status.failure.summary


def test_a_state_that_is_damaged_while_the_job_runs(bench, tmp_path):
    """The supervisor lives and writes the state again when the job ends."""
    go_on = tmp_path / "go_on"
    handle = bench.submit(bench.step(["sh", "-c", f"until [ -e {go_on} ]; do sleep 0.05; done"]))
    wait_until(
        lambda: bench.status(handle).state, "the job to run", holds=lambda state: state is JobState.RUNNING
    )
    _damage(bench, handle, "state.json", b"{")
    assert bench.status(handle).state is JobState.RUNNING
    go_on.touch()
    assert bench.wait(handle).state is JobState.SUCCEEDED
    assert bench.hook.outcome(handle).data


def test_a_job_with_a_damaged_state_can_be_cancelled(bench, running):
    _damage(bench, running, "state.json", b"{")
    bench.hook.cancel(running)
    assert bench.wait(running).state is JobState.CANCELLED


@pytest.mark.parametrize("case", STATES)
def test_a_damaged_request(copy, case):
    """The job's owner is unknown, so no list has the job, and its outcome is refused."""
    bench, handle = copy
    _damage(bench, handle, "request.json", STATES[case])
    with pytest.raises(IntegrityError, match=r"request\.json"):
        bench.hook.outcome(handle)
    assert list(bench.hook.find({})) == []
    assert bench.status(handle).state is JobState.SUCCEEDED
    bench.hook.delete(handle)


@pytest.mark.parametrize("inline", [{}, {"outcome": "a"}, {"outcome": "AAAA"}])
def test_a_forged_receipt(copy, inline):
    bench, handle = copy
    receipt = {"digest": "0" * 64, **inline}
    _damage(bench, handle, "state.json", json.dumps({**bench.state(handle), "receipt": receipt}).encode())
    with pytest.raises(
        IntegrityError, match=r"its bytes changed after the step wrote it|receipt of .* is damaged"
    ):
        read_outcome(bench.hook.outcome(handle), handle.name, "n")


def test_an_outcome_of_an_earlier_job_is_refused(done, bench):
    """The state of an earlier job, copied into the folder of a later one."""
    earlier, _, old = done
    step = bench.step(["echo", "new"])
    handle, _ = bench.run(step)
    _damage(bench, handle, "state.json", (earlier.folder / old.id / "state.json").read_bytes())
    with pytest.raises(IntegrityError, match=f"it belongs to job '{old.name}' .* and not to '{handle.name}'"):
        read_outcome(bench.hook.outcome(handle), handle.name, step.spec.nonce)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"detail": {}}, "the handle of a local job has no 'folder'"),
        ({"detail": {"folder": 1}}, "the handle of a local job has folder=1, which is not a text"),
        ({"id": "../../etc"}, "the handle of a local job is damaged: '../../etc' is not the name"),
        ({"id": ""}, "is not the name of a job"),
        ({"id": "A b"}, "'A b' is not the name of a job"),
        ({"id": "s" * 10_000}, "is not the name of a job"),
        ({"scope": "elsewhere"}, "runs on the host elsewhere, and this is "),
    ],
)
@pytest.mark.parametrize("verb", ["status", "outcome", "cancel", "delete"])
def test_an_edited_handle(copy, change, text, verb):
    bench, handle = copy
    edited = JobHandle(**{**handle.to_json(), **change})
    call = getattr(bench.hook, verb)
    with pytest.raises(StepopError, match=text):
        call([edited] if verb == "status" else edited)
    assert (bench.folder / handle.id).exists()


# -- the log

LOGS = {
    "no stamp": (b"hello\n", ["hello"]),
    "stamp of a text": (b"1.0 a\nsoon b\n2.0 c\n", ["a", "soon b", "c"]),
    "not a number": (b"nan a\n1.0 b\n", ["nan a", "b"]),
    "before time": (b"-1.0 a\n", ["-1.0 a"]),
    "after time": (b"1e300 a\n", ["1e300 a"]),
    "without end": (b"inf a\n", ["inf a"]),
    "not UTF-8": (b"1.0 \xff\n", ["�"]),
    "NUL": (b"1.0 a\0b\n", ["a\0b"]),
    "empty lines": (b"\n\n1.0 a\n", ["", "", "a"]),
    "a hole": (bytes(100) + b"\n1.0 a\n", ["\0" * 100, "a"]),
}


@pytest.mark.parametrize("case", LOGS)
def test_damaged_log(tmp_path, case):
    """All readable lines are read, with times that a calendar has."""
    data, texts = LOGS[case]
    (tmp_path / "log").write_bytes(data)
    records, place = read_records(str(tmp_path / "log"), LogPosition(), 2**20)
    assert [text for _, text in records] == texts
    assert all(0 <= when < END_OF_TIME for when, _ in records)
    assert place.position == len(data)


def test_a_hole_in_the_log_does_not_hide_what_follows(tmp_path):
    (tmp_path / "log").write_bytes(b"1.0 before\n" + bytes(200_000) + b"\n2.0 after\n")
    place, texts = LogPosition(), []
    while True:
        records, place = read_records(str(tmp_path / "log"), place, 2**15)
        if not records:
            break
        texts += [text for _, text in records]
    assert (texts[0], texts[-1]) == ("before", "after")


@pytest.mark.parametrize("when", [float("nan"), float("inf"), -1e300, 1e300, 1e12])
def test_a_line_of_a_time_that_no_calendar_has_is_logged(when):
    class Log:
        lines: list[str] = []  # noqa: RUF012 - one test, one log

        def info(self, text, **fields):
            self.lines.append(text)

    TaskLog(Log(), None, None, 1000).write([LogLine(when, "line")])
    assert Log.lines.pop() == "line"


# -- full disks


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a disk of a given size; the mount needs root."""
    made = []

    def make(size):
        path = tmp_path / f"disk-{len(made)}"
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a full disk needs the right to mount one: run the tests as root")
        made.append(path)
        return path

    yield make
    for path in made:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Fill the disk except for the last ``leave`` bytes."""
    path = disk / "fill"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - leave))
    return path


def test_full_while_the_payload_is_written(bench, small_disk):
    """Nothing of the job is left, and the next submit creates the job."""
    bench.folder = bench.hook._folder_given = small_disk("2m")
    filler = fill(bench.folder)
    step = bench.step(["echo", "x"])
    with pytest.raises(OSError, match="No space left on device"):
        bench.submit(step)
    assert bench.hook.lookup(step.spec) is None
    filler.unlink()
    assert bench.run(step)[1].state is JobState.SUCCEEDED


def test_full_when_the_supervisor_starts(bench, small_disk):
    """The supervisor reserves the space for its last state before it starts anything."""
    bench.folder = bench.hook._folder_given = small_disk("2m")
    filler = fill(bench.folder, leave=200_000)
    step = bench.step(["echo", "x"])
    with pytest.raises(StepInterruptedError, match=r"did not start: OSError: .*No space left on device"):
        bench.submit(step)
    assert bench.hook.lookup(step.spec) is None
    filler.unlink()
    assert bench.run(step)[1].state is JobState.SUCCEEDED


# ends when the supervisor has read all output so far
IS_READ = f"""{sys.executable} -c '
import fcntl, termios, time
while any(fcntl.ioctl(1, termios.FIONREAD, bytes(4))): time.sleep(0.01)
'"""


def test_full_while_the_step_prints_and_ends(bench, small_disk):
    """The lines are lost and counted. The outcome and the last state are not lost."""
    bench.folder = bench.hook._folder_given = disk = small_disk("3m")
    code = f"head -c 4m /dev/zero > {disk}/fill; seq 1000; {IS_READ}; sleep 2; rm {disk}/fill; echo last"
    handle, status = bench.run(bench.step(["sh", "-c", code]))
    assert status.state is JobState.SUCCEEDED, status
    assert bench.hook.outcome(handle).data
    assert bench.lines(handle)[-1] == "last"
    assert any("lines are missing here: the disk was full" in line for line in bench.lines(handle))


def test_full_while_the_result_is_written(bench, small_disk, tmp_path):
    """Neither part of a segment is left nor a result that refers to one."""
    disk = small_disk("1m")
    step = bench.step(lambda: b"x" * 2_000_000, result_uri=f"file://{disk}/results")
    handle, status = bench.run(step)
    assert status.state is JobState.FAILED
    found = read_outcome(bench.hook.outcome(handle), handle.name, step.spec.nonce)
    assert "The step ran, but its result could not be written: [Errno 28]" in found["failure"]["summary"]
    assert found["failure"]["hint"] == "give the step more disk, or return less"
    assert [path for path in disk.rglob("*") if path.is_file()] == []


def test_full_while_an_argument_is_stored(small_disk):
    from airflow_stepop.stores.configured import open_store

    disk = small_disk("1m")
    call = FunctionCall(function=len, args=(b"x" * 2_000_000,), kwargs={}, reference=("builtins", "len"))
    payload = build_payload(call, job="s", nonce="n", split="no", is_result_wanted=True)
    with pytest.raises(StoreError, match=r"(?s)could not be written: .*No space left on device.*has space"):
        spill(payload, lambda: open_store(str(disk)), 1000)
    assert [path for path in disk.rglob("*") if path.is_file() and path.stat().st_size == 2_000_000] == []


def test_full_when_the_result_is_collected(small_disk, monkeypatch):
    """The result then goes into Airflow's XCom: a large XCom is better than a lost result."""
    from airflow_stepop.stores.configured import open_store

    disk = small_disk("64k")
    store = open_store(str(disk))
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", store.url)
    fill(disk)
    entries = [inline("json", b'"' + b"x" * 100 + b'"')] * 1000
    outcome = {
        "protocol": 1,
        "job": "s",
        "nonce": "n",
        "status": "success",
        "split": "list",
        "values": entries,
    }
    found = read_outcome(report_of(outcome, base_uri=store.uri("results")), "s", "n")
    assert len(found["result"]["list"]) == 1000
    assert not list(disk.rglob("*.json"))


# -- a system clock that is changed

FAKETIME = next(
    (path for path in Path("/usr/lib").glob("*/faketime/libfaketime.so.1") if sys.platform == "linux"), None
)
JUMPS = [pytest.param(hours, id=f"{hours:+} h") for hours in (-30, -3, 3, 30)]


@pytest.fixture
def set_clock(tmp_path):
    """Return a function that runs Python code; ``clock(hours)`` in it sets the clock for its processes."""
    needs(FAKETIME, "Debian's package libfaketime, to set the clock: apt-get install libfaketime")
    path = tmp_path / "clock"
    path.write_text("+0")
    head = f"def clock(hours): open({str(path)!r}, 'w').write('%+d' % (hours * 3600))\n"
    # libfaketime 0.9.10 makes each time.sleep() of Python fail (clock_nanosleep with TIMER_ABSTIME)
    head += "import select, time\ndef sleep(seconds): select.select([], [], [], seconds)\n"
    head += "time.sleep = sleep\ndef pause(): sleep(0.02)\n"
    env = {
        **os.environ,
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(path),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_FLSHM": "0",
        "PYTHONPATH": str(ROOT),
    }

    def run(code):
        done = subprocess.run([sys.executable, "-c", head + code], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_clock_of_these_tests_can_be_set(set_clock):
    """So the tests below would notice a wrong reaction."""
    before, after, steady = set_clock(
        "import json\na, m = time.time(), time.monotonic(); clock(30)\n"
        "print(json.dumps([a, time.time(), time.monotonic() - m]))"
    )
    assert abs(after - before - 30 * 3600) < 60
    assert steady < 60


def test_a_sleep_ends_although_the_clock_is_set(set_clock):
    """The code of the tests below sleeps too, for example while it kills a lost job's processes."""
    slept = set_clock("a = time.monotonic(); clock(-3); time.sleep(0.2); print(time.monotonic() - a)")
    assert 0.2 <= slept < 60


@pytest.mark.parametrize("hours", JUMPS)
def test_no_deadline_passes_because_the_clock_was_set(set_clock, hours):
    """A job with a timeout of a minute and deadlines in a minute, and a clock that jumps by hours."""
    reason, drift = set_clock(f"""
import json
from airflow_stepop.job import JobState, JobStatus
from airflow_stepop.waiting.deadlines import Clock, Deadlines
wait, began = Clock(), time.time()
deadlines = Deadlines(began + 60, began + 60, 60.0)
clock({hours})
states = [JobStatus(state, started_at=began) for state in JobState if not state.is_terminal]
reasons = [deadlines.reason(status, wait.now()) for status in states]
print(json.dumps([reasons, wait.now() - began]))
""")
    assert reason == [None, None]
    assert abs(drift) < 60


@pytest.mark.parametrize("hours", JUMPS)
def test_a_job_whose_clock_is_set_while_it_runs(set_clock, tmp_path, hours):
    """The job is not stopped, its lines keep their order, and it ends after it began."""
    log, state, lines = set_clock(f"""
import json, sys
from pathlib import Path
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.testing import make_step
hook = LocalStepHook(folder=Path({str(tmp_path / "jobs")!r}))
command = "echo before; until [ -e {tmp_path}/set ]; do sleep 0.05; done; echo after"
step = make_step(["sh", "-c", command], timeout_s=60.0)
handle = hook.submit(step.spec, step.payload)
while not hook.logs({{handle: None}}): pause()
clock({hours})
open("{tmp_path}/set", "w").close()
while not hook.status([handle])[handle].state.is_terminal: pause()
status = hook.status([handle])[handle]
lines = [(line.time, line.text) for line in hook.logs({{handle: None}})[handle].lines]
print(json.dumps([lines, status.state.value, [status.started_at, status.finished_at]]))
""")
    began, ended = lines
    assert state == "succeeded"
    assert [text for _, text in log] == ["before", "after"]
    assert began <= log[0][0] <= log[1][0] <= ended < began + 60


@pytest.mark.parametrize("hours", JUMPS)
def test_a_job_that_lost_its_supervisor_ends_after_it_began(set_clock, tmp_path, hours):
    state, began, ended = set_clock(f"""
import json, os, signal
from pathlib import Path
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.testing import make_step
hook = LocalStepHook(folder=Path({str(tmp_path / "jobs")!r}))
step = make_step(["sleep", "600"])
handle = hook.submit(step.spec, step.payload)
clock({hours})
os.kill(json.loads(Path(handle.detail["folder"], handle.id, "state.json").read_text())["pid"], signal.SIGKILL)
while not hook.status([handle])[handle].state.is_terminal: pause()
status = hook.status([handle])[handle]
print(json.dumps([status.state.value, status.started_at, status.finished_at]))
""")
    assert state == "failed"
    assert began <= ended


@pytest.mark.parametrize("hours", JUMPS)
def test_a_trigger_whose_clock_is_set_while_it_waits(set_clock, tmp_path, hours):
    """The deadline is a minute away. The trigger waits for its job, and not longer than this minute."""
    reason, waited = set_clock(f"""
import asyncio, json
from pathlib import Path
from airflow_stepop.hooks.local import hook as local
from airflow_stepop.testing import make_step
from airflow_stepop.triggers import RemoteStepTrigger
hook = local.LocalStepHook(folder=Path({str(tmp_path / "jobs")!r}))
step = make_step(["sh", "-c", "until [ -e {tmp_path}/set ]; do sleep 0.05; done"])
handle = hook.submit(step.spec, step.payload)
deadlines = {{"execution": time.time() + 60, "start": time.time() + 60, "run_s": 60.0}}
waiter = {{"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "since": time.time()}}
trigger = RemoteStepTrigger(handle.to_json(), deadlines, 0.1, waiter)

async def scenario():
    waiting = asyncio.ensure_future(anext(trigger.run()))
    await asyncio.sleep(0.5)
    clock({hours})
    await asyncio.sleep(1)  # the job goes on, however long this takes
    assert not waiting.done(), waiting.result()
    open("{tmp_path}/set", "w").close()
    return (await waiting).payload["reason"]

began = time.monotonic()
print(json.dumps([asyncio.run(scenario()), time.monotonic() - began]))
""")
    assert reason == "finished"
    assert waited < 60, "its deadline"


def test_a_clock_goes_on():
    clock = Clock()
    first = clock.now()
    assert abs(first - time.time()) < 60
    assert clock.now() >= first


# -- limits at both ends


@pytest.mark.parametrize("timeout_s", [1e-6, 1e-3])
def test_a_timeout_of_microseconds(bench, timeout_s):
    _, status = bench.run(bench.step(["sleep", "600"], timeout_s=timeout_s))
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.TIMEOUT


def test_a_timeout_of_a_hundred_years(bench):
    assert bench.run(bench.step(["true"], timeout_s=100 * 365 * 86400.0))[1].state is JobState.SUCCEEDED


@pytest.mark.parametrize("value", ["x\ny", "", " ", "\r\n", "größe", "$(false)", "a=b", "'\"", "x" * 100_000])
def test_values_of_variables(bench, value):
    step = bench.python("import os; print(ascii(os.environ['A']))", env={"A": value})
    handle, status = bench.run(step)
    assert status.state is JobState.SUCCEEDED
    text = "".join(bench.lines(handle))
    assert text.startswith(ascii(value)[:10_000])


def test_a_variable_that_the_kernel_refuses(bench):
    """Linux allows at most 128 KiB for one variable."""
    _, status = bench.run(bench.step(["true"], env={"A": "x" * 200_000}))
    assert status.failure.category is Category.BAD_CONFIG
    assert "Argument list too long" in status.failure.summary
