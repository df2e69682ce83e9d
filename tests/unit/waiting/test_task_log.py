"""Which lines of a step reach the task's log, through the trigger and through the worker."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partialmethod
from types import SimpleNamespace

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.job import JobState, LogLine
from airflow_stepop.lifecycle.worker import WorkerSession
from airflow_stepop.triggers import RemoteStepTrigger
from airflow_stepop.waiting.deadlines import Deadlines, StopReason
from airflow_stepop.waiting.task_log import LAST_LINES, LINE_COST, TaskLog, configured_limit

pytestmark = pytest.mark.usefixtures("registered")  # the triggers find the test's hook


class Log:
    """Collects the lines of a task log."""

    def __init__(self):
        self.lines = []
        self.times = []
        self.sources = []
        self.levels = []

    def add(self, level, text, *args, timestamp=None, logger=None):
        self.lines.append(text % args if args else text)
        self.times.append(timestamp)
        self.sources.append(logger)
        self.levels.append(level)

    debug = partialmethod(add, "debug")
    info = partialmethod(add, "info")
    warning = partialmethod(add, "warning")
    error = partialmethod(add, "error")
    critical = partialmethod(add, "critical")

    def isEnabledFor(self, level):  # noqa: N802 - the name that loggers have
        return level >= logging.INFO


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def handle(hook):
    return hook.add("job")


def follow(hook, task_log, handle):
    """Read the log in chunks, as a waiting worker does."""
    cursor = None
    while not task_log.is_full and (found := hook.logs({handle: cursor}).get(handle)):
        task_log.write(found.lines)
        cursor = found.cursor
    for lines in task_log.rest(cursor):
        task_log.write(lines)


@pytest.fixture
def in_chunks(hook):
    """Let the hook return at most 100 lines at a time."""
    hook.chunk = 100


def test_lines_keep_the_time_at_which_the_step_printed_them(hook, handle, log):
    TaskLog(log, hook, handle, 10_000).write([LogLine(1700000000.25, "100 % done %s")])
    assert (log.lines, log.times) == (["100 % done %s"], ["2023-11-14T22:13:20.250000Z"])


def test_lines_of_the_step_have_a_source_of_their_own(hook, handle, log):
    """So Airflow's log page can show them without the lines of Airflow and the operator in between."""
    TaskLog(log, hook, handle, 10_000).write([LogLine(0.0, "x"), LogLine(float("nan"), "y")])
    assert log.sources == ["step", "step"]


def test_lines_keep_their_level(hook, handle, log):
    """A line that Airflow's own level would leave out is written as INFO: the step has logged the line."""
    levels = ("debug", "info", "warning", "error", "critical")
    TaskLog(log, hook, handle, 10_000).write([LogLine(0.0, "x", level) for level in levels])
    assert log.levels == ["info", "info", "warning", "error", "critical"]


def test_debug_lines_of_a_log_that_shows_them(hook, handle, log):
    log.isEnabledFor = lambda level: True
    TaskLog(log, hook, handle, 10_000).write([LogLine(0.0, "x", "debug")])
    assert log.levels == ["debug"]


def test_a_short_log_is_complete(hook, handle, log):
    hook.lines["job"] = [f"line {n}" for n in range(1000)]
    follow(hook, TaskLog(log, hook, handle, 10**6), handle)
    assert log.lines == hook.lines["job"]


@pytest.mark.usefixtures("in_chunks")
def test_a_long_log_has_its_beginning_and_its_end(hook, handle, log):
    """A line between the two tells where the rest is."""
    hook.lines["job"] = [f"line {n}" for n in range(100_000)]
    follow(hook, TaskLog(log, hook, handle, 1000 * (LINE_COST + 8)), handle)
    (full,) = [at for at, line in enumerate(log.lines) if "log_limit" in line]
    assert log.lines[:full] == [f"line {n}" for n in range(full)]
    assert 1000 <= full <= 1100
    assert "airflow stepop logs job" in log.lines[full]
    assert log.lines[full + 1] == f"[stepop] The last {LAST_LINES} lines of the step:"
    assert log.lines[full + 2 :] == [f"line {n}" for n in range(100_000 - LAST_LINES, 100_000)]
    assert len(log.lines) < 1400


@pytest.mark.usefixtures("in_chunks")
def test_no_line_comes_twice_when_the_limit_is_met_near_the_end(hook, handle, log):
    for count in (999, 1000, 1001, 1050, 1100, 1101, 1300, 1301):
        log.lines.clear()
        hook.lines["job"] = [f"line {n}" for n in range(count)]
        follow(hook, TaskLog(log, hook, handle, 1000 * LINE_COST), handle)
        lines = [line for line in log.lines if not line.startswith("[stepop]")]
        assert lines == hook.lines["job"][: len(lines)] or count > 1000 + LAST_LINES
        assert lines[-1] == f"line {count - 1}"
        assert len(set(lines)) == len(lines)


def test_the_console_of_the_service_is_named(hook, handle, log):
    hook.link = lambda handle: "https://console/job"
    TaskLog(log, hook, handle, 0).write([LogLine(0.0, "x")])
    assert "https://console/job or airflow stepop logs job" in log.lines[1]


def test_lines_are_made_harmless(hook, handle, log):
    TaskLog(log, hook, handle, 10_000).write([LogLine(0.0, "a\x00\x1b[2Jb\r"), LogLine(0.0, "x" * 10**7)])
    assert log.lines[0] == "a␀b"
    assert len(log.lines[1]) < 21_000


def test_the_limit_is_configured(monkeypatch):
    assert configured_limit() == 16_000_000
    monkeypatch.setenv("AIRFLOW__STEPOP__LOG_LIMIT", "2MiB")
    assert configured_limit() == 2**21
    monkeypatch.setenv("AIRFLOW__STEPOP__LOG_LIMIT", "much")
    with pytest.raises(StepConfigError, match=r"\[stepop\] log_limit: .*'much'"):
        configured_limit()


# -- the trigger


def run_trigger(handle, log, limit):
    """Run a trigger to its end; return its events and the most lines that it wrote at a time.

    The event loop could do nothing else while it wrote these lines.
    """
    trigger = RemoteStepTrigger(
        handle.to_json(),
        {"execution": None, "start": None, "run_s": None},
        0.05,
        {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1},
        log_limit=limit,
    )
    trigger._log = log  # a triggerer gives each trigger a log of its own

    async def scenario():
        most, is_over = 0, False

        async def heartbeat():
            nonlocal most
            while not is_over:
                before = len(log.lines)
                await asyncio.sleep(0)
                most = max(most, len(log.lines) - before)

        beat = asyncio.create_task(heartbeat())
        events = [event async for event in trigger.run()]
        is_over = True
        await beat
        return events, most

    return asyncio.run(scenario())


@pytest.mark.usefixtures("in_chunks")
def test_a_trigger_stops_reading_when_the_log_is_full(hook, handle, log):
    """The trigger reads the lines that fit and the last ones, not the hundred thousand in between."""
    hook.lines["job"] = [f"line {n}" for n in range(100_000)]
    hook.end("job", JobState.SUCCEEDED)
    read = []
    real = hook.logs
    hook.logs = lambda cursors: read.append(1) or real(cursors)
    hook.tail = hook.tail_of_service
    (event,), _ = run_trigger(handle, log, 1000 * LINE_COST)
    assert event.payload["reason"] == StopReason.FINISHED.value
    assert log.lines[0] == "line 0"
    assert log.lines[-1] == "line 99999"
    assert len(log.lines) < 1400
    assert len(read) < 20


@pytest.mark.parametrize("chunk", [49, 1000])
@pytest.mark.parametrize("room", [1, 175])
def test_the_note_that_the_log_is_full_comes_after_the_last_line_before_it(hook, handle, log, chunk, room):
    """A trigger writes the lines of one read in parts; the log becomes full in any of these parts."""
    hook.chunk = chunk
    hook.lines["job"] = [f"line {n}" for n in range(20_000)]
    hook.end("job", JobState.SUCCEEDED)
    hook.tail = hook.tail_of_service
    run_trigger(handle, log, room * LINE_COST)
    (full,) = [at for at, line in enumerate(log.lines) if "log_limit" in line]
    assert log.lines[:full] == [f"line {n}" for n in range(full)]
    assert log.lines[full + 1] == f"[stepop] The last {LAST_LINES} lines of the step:"
    assert log.lines[full + 2 :] == [f"line {n}" for n in range(20_000 - LAST_LINES, 20_000)]


def test_writing_a_long_log_does_not_hold_up_the_other_triggers(hook, handle):
    """Each line costs Airflow some time, so a chunk of thousands must be written in portions."""

    log = Log()
    hook.lines["job"] = [f"line {n}" for n in range(4000)]
    hook.end("job", JobState.SUCCEEDED)
    _, most = run_trigger(handle, log, 10**8)
    assert log.lines == hook.lines["job"]
    assert 0 < most < 2000  # less than half of the lines; each may take Airflow half a millisecond


def test_lines_that_are_read_while_others_are_written_are_not_lost(hook, handle):
    """The job ends while its long log is still being read."""

    class SlowLog(Log):
        def info(self, text, *args, **fields):
            time.sleep(0.0007)
            super().info(text, *args, **fields)
            if len(self.lines) == 2000:
                hook.end("job", JobState.SUCCEEDED)

    log, hook.chunk = SlowLog(), 2000
    hook.lines["job"] = [f"line {n}" for n in range(14_000)]
    run_trigger(handle, log, 10**8)
    assert log.lines == hook.lines["job"]


def test_a_trigger_of_an_older_worker_uses_the_configured_limit(hook, handle, log):
    hook.lines["job"] = ["line"]
    hook.end("job", JobState.SUCCEEDED)
    run_trigger(handle, log, None)
    assert log.lines == ["line"]


def test_a_worker_learns_of_the_end_although_no_log_can_be_read(hook, handle):
    """The node may be away, or the account may not read logs."""

    def refuse(_):
        raise ConnectionError("the node is away")

    hook.logs = refuse
    hook.end("job", JobState.SUCCEEDED)
    request = SimpleNamespace(hook=lambda *_: hook, poll_interval_s=0.01, log_limit=1000)
    observer = SimpleNamespace(status_seen=lambda _: None)
    session = WorkerSession.__new__(WorkerSession)
    session.__dict__.update(request=request, observer=observer, log=logging.getLogger(__name__))
    session.__dict__.update(operator=SimpleNamespace(execution_timeout=None), _begun=None)
    ends = []
    session.lifecycle = SimpleNamespace(deadlines=lambda _: Deadlines(), note_end=ends.append)
    status = hook.status
    hook.status = lambda handles: pytest.fail("it waits on") if hook.calls["status"] else status(handles)
    assert session.wait_in_worker(handle) is StopReason.FINISHED
    assert [end.state for end in ends] == [JobState.SUCCEEDED]
