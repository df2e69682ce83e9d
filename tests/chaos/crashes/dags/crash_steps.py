"""Steps whose worker dies or waits at one point, and steps that end when their test lets them.

A step appends its pid to ``<marks>/<dag>.<task>.<run>`` when it starts. It goes on until a file of that name
with the ending ``.go`` exists.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from airflow_stepop import RemoteStepOperator
from airflow_stepop.exceptions import QuotaError

MARKS = Path(os.environ.get("STEPOP_TEST_MARKS", "/nonexistent"))
HOLD_LIMIT_S = 900

SCRIPT = """
exec 9> "$STEPOP_TEST_MARK.lock"
flock -n 9 || echo $$ >> "$STEPOP_TEST_MARK.overlap"
echo $$ >> "$STEPOP_TEST_MARK"
echo "the step runs"
until [ -e "$STEPOP_TEST_MARK.go" ]; do sleep 0.1; done
"""

# point -> owner and method, whether before or after the call, and a condition on the record
POINTS = {
    "unintended": ("lifecycle", "_save", "before", lambda record: record.handle is None),
    "intended": ("lifecycle", "_submit", "before", None),
    "submitting": ("hook", "submit", "before", None),
    "submitted": ("lifecycle", "_save", "before", lambda record: record.handle and not record.collected),
    "saved": ("lifecycle", "_save", "after", lambda record: record.handle and not record.collected),
    "waiting": ("session", "wait_in_worker", "before", None),
    "resumed": ("session", "resume", "before", None),
    "seen": ("lifecycle", "_save", "after", lambda record: record.end and not record.collected),
    "finishing": ("lifecycle", "finish", "before", None),
    "read": ("lifecycle", "_save", "before", lambda record: record.collected),
    "collected": ("lifecycle", "_save", "after", lambda record: record.collected),
    "returning": ("session", "_to_xcom", "before", None),
}


def die(mark: str) -> None:
    """Kill this process as ``kill -9`` does, but only the first time."""
    try:
        Path(f"{mark}.died").touch(exist_ok=False)
    except FileExistsError:
        return
    if "waiting" in mark:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def hold(mark: str) -> None:
    """Wait until the test lets this process go on."""
    Path(f"{mark}.held").touch()
    end = time.monotonic() + HOLD_LIMIT_S
    while not Path(f"{mark}.let").exists() and time.monotonic() < end:
        time.sleep(0.05)


class CrashStep(RemoteStepOperator):
    """A step that waits until its test lets it go, and then runs ``result``.

    :param die_at: point at which the first worker that reaches it is killed
    :param hold_at: point at which every worker waits for the test
    """

    result = """printf '["%s"]' "$STEPOP_TEST_VALUE" > result.json"""

    def __init__(self, *, die_at: str = "", hold_at: str = "", outputs=("result.json",), **kwargs):
        self.die_at, self.hold_at = die_at, hold_at
        mark = f"{MARKS}/{{{{ dag.dag_id }}}}.{{{{ task.task_id }}}}.{{{{ run_id }}}}"
        super().__init__(
            command=["sh", "-c", SCRIPT + self.result],
            outputs=list(outputs),
            keep="always",
            env={"STEPOP_TEST_MARK": mark, "STEPOP_TEST_VALUE": "{{ task.task_id }}"},
            **kwargs,
        )

    def _open(self, context):
        session = super()._open(context)
        mark = self.env["STEPOP_TEST_MARK"]
        Path(f"{mark}.worker").write_text(str(os.getpid()))
        if self.die_at:
            interpose(session, self.die_at, lambda: die(mark))
        if self.hold_at:
            interpose(session, self.hold_at, lambda: hold(mark))
        return session


def interpose(session, point: str, act: Callable[[], None]) -> None:
    """Call ``act`` when the worker reaches ``point``."""
    name, method, when, condition = POINTS[point]
    owner = {"session": session, "lifecycle": session.lifecycle, "hook": session.request.own_hook}[name]
    real = getattr(owner, method)

    def wrapped(*args):
        is_here = condition is None or condition(args[0])
        if is_here and when == "before":
            act()
        result = real(*args)
        if is_here and when == "after":
            act()
        return result

    setattr(owner, method, wrapped)


class Asking(CrashStep):
    """A step whose worker waits for an answer from Airflow when the user ends the task."""

    def _open(self, context):
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        session = super()._open(context)
        wait, mark = session.wait_in_worker, self.env["STEPOP_TEST_MARK"]

        def ask_and_wait(handle):
            with SUPERVISOR_COMMS._thread_lock:
                hold(mark)
            return wait(handle)

        session.wait_in_worker = ask_and_wait
        return session


class Importing(CrashStep):
    """A step whose worker is within an import that the cancel needs when the user ends the task."""

    def _open(self, context):
        session = super()._open(context)
        hook, mark = session.request.own_hook, self.env["STEPOP_TEST_MARK"]
        wait, cancel = session.wait_in_worker, hook.cancel
        client = sys.modules["client_of_a_test"] = ModuleType("client_of_a_test")

        def import_and_wait(handle):
            hold(mark)
            client.NAME = "imported"
            return wait(handle)

        def import_and_cancel(handle):
            from client_of_a_test import NAME  # noqa: F401 - partially initialized when the signal comes

            cancel(handle)

        session.wait_in_worker, hook.cancel = import_and_wait, import_and_cancel
        return session


class NoRoom(CrashStep):
    """A step whose service has no room until a file of its name with the ending ``.room`` exists.

    :param pause_s: length of each pause before the next submit, seconds
    :param breaks: whether the trigger of the first pause breaks
    """

    def __init__(self, *, pause_s: float = 8, breaks: bool = False, **kwargs):
        self.pause_s, self.breaks = pause_s, breaks
        super().__init__(deferrable=True, **kwargs)

    def _open(self, context):
        session = super()._open(context)
        hook, mark = session.request.own_hook, self.env["STEPOP_TEST_MARK"]
        submit, pause = hook.submit, session.lifecycle.api_retries.pause

        def submit_if_there_is_room(*args):
            if not Path(f"{mark}.room").exists():
                raise QuotaError("all places are taken")
            return submit(*args)

        hook.submit, session.lifecycle.api_retries.pause = (
            submit_if_there_is_room,
            lambda _: pause(self.pause_s),
        )
        return session

    def defer(self, *, trigger, **kwargs):
        paused = Path(f"{self.env['STEPOP_TEST_MARK']}.paused")
        if self.breaks and not paused.exists():
            trigger.until = "bogus"
        paused.touch()
        super().defer(trigger=trigger, **kwargs)


class BrokenTrigger(CrashStep):
    """A step whose trigger cannot be created in the triggerer."""

    def defer(self, *, trigger, **kwargs):
        trigger.deadlines = Broken()
        super().defer(trigger=trigger, **kwargs)


class Broken:
    """Deadlines that no version of the trigger can read."""

    def to_json(self):
        return ["bogus"]
