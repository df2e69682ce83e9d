"""Steps whose worker kills itself at one point of its life, once; and steps that a user or a dead triggerer
interrupts.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_stepop import RemoteStepOperator

MARKS = Path(os.environ.get("STEPOP_TEST_MARKS", "/nonexistent"))


def die_once(mark: str) -> None:
    """Kill this process as ``kill -9`` does, the first time only."""
    try:
        (MARKS / f"{mark}.died").touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for(is_there) -> None:
    """Wait until a signal handler has done its work, for a minute at most."""
    end = time.monotonic() + 60
    while not is_there() and time.monotonic() < end:
        time.sleep(0.05)


class Dying(RemoteStepOperator):
    """A step whose worker dies at ``die_at``. It runs for ``seconds``, or until the test lets it go."""

    def __init__(self, *, die_at: str = "", mark: str = "", seconds: float = 3, **kwargs):
        self.die_at, self.mark = die_at, mark
        here = f"{MARKS}/{mark}.$STEPOP_TEST_RUN"
        script = f'echo $$ >> "{here}"; n={seconds * 10:.0f}; '
        script += f'while [ $n -gt 0 ] && [ ! -e "{here}.go" ]; do sleep 0.1; n=$((n-1)); done; '
        script += f'echo "[\\"{mark}\\"]" > result.json'
        env = {"STEPOP_TEST_RUN": "{{ run_id }}"}
        super().__init__(
            command=["sh", "-c", script], outputs=["result.json"], keep="always", env=env, **kwargs
        )

    def _open(self, context):
        stint = super()._open(context)
        life = stint.life
        mark = f"{self.mark}.{context['run_id']}"
        (MARKS / f"{mark}.worker").write_text(str(os.getpid()))
        if self.die_at == "intent":
            self._before(life, "_submit", mark)
        elif self.die_at == "submitted":
            save = life._save
            life._save = lambda record: die_once(mark) if record.handle else save(record)
            self._only_once(life, mark, _save=save)
        elif self.die_at == "waiting":
            wait = stint.wait_here
            stint.wait_here = lambda handle: (time.sleep(1), die_once(mark), wait(handle))[-1]
        elif self.die_at == "finishing":
            self._before(life, "finish", mark)
        elif self.die_at == "collected":
            self._before(life, "_tidy", mark)
        return stint

    @staticmethod
    def _before(life, name, mark):
        method = getattr(life, name)
        setattr(life, name, lambda *a: (die_once(mark), method(*a))[-1])

    @staticmethod
    def _only_once(life, mark, **methods):
        if (MARKS / f"{mark}.died").exists():
            for name, method in methods.items():
                setattr(life, name, method)


class SlowSubmit(Dying):
    """A step whose submit takes until the user ended the task, before or after the job was started."""

    def __init__(self, *, slow: str, **kwargs):
        self.slow = slow
        super().__init__(**kwargs)

    def _open(self, context):
        stint = super()._open(context)
        hook = stint.request.own_hook
        submit = hook.submit

        def slowly(spec, payload):
            (MARKS / f"{self.mark}.{context['run_id']}.submitting").touch()
            if self.slow == "before":
                wait_for(lambda: stint._is_ended)
            handle = submit(spec, payload)
            if self.slow == "after":
                wait_for(lambda: stint._is_ended)
            return handle

        hook.submit = slowly
        return stint


class Asking(Dying):
    """A step whose worker is in the middle of a question to Airflow when the user ends the task."""

    def _open(self, context):
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

        stint = super()._open(context)
        wait = stint.wait_here

        def ask_and_wait(handle):
            with SUPERVISOR_COMMS._thread_lock:
                (MARKS / f"{self.mark}.{context['run_id']}.asking").touch()
                wait_for(lambda: stint._is_in_doubt)
            return wait(handle)

        stint.wait_here = ask_and_wait
        return stint


class BrokenTrigger(Dying):
    """A step whose trigger cannot even be made in the triggerer."""

    def defer(self, *, trigger, **kwargs):
        trigger.deadlines = Broken()
        super().defer(trigger=trigger, **kwargs)


class Broken:
    """Deadlines of no version."""

    def to_json(self):
        return {"bogus": 1}


POINTS = ("intent", "submitted", "waiting", "finishing", "collected")

with DAG("kills", schedule=None):
    for point in POINTS:
        Dying(task_id=point, die_at=point, mark=point)
    for point in ("finishing", "collected"):
        Dying(task_id=f"{point}_deferred", die_at=point, mark=f"{point}_deferred", deferrable=True)

for name, arguments in {
    "running": {"seconds": 240},
    "deferred": {"seconds": 240, "deferrable": True},
    "quick": {"seconds": 0.5},
    "quick_deferred": {"seconds": 0.5, "deferrable": True},
    "kept": {"seconds": 240, "deferrable": True},
    "kept_running": {"seconds": 240},
    "moved": {"seconds": 240, "deferrable": True},
    "late": {"seconds": 240, "deferrable": True, "execution_timeout": timedelta(seconds=15)},
    "late_running": {"seconds": 240, "execution_timeout": timedelta(seconds=15)},
}.items():
    with DAG(f"user_{name}", schedule=None):
        Dying(task_id="step", mark=name, **arguments)

with DAG("user_asking", schedule=None):
    Asking(task_id="step", mark="asking", seconds=240)

with DAG("user_broken", schedule=None):
    BrokenTrigger(task_id="step", mark="broken", seconds=8, deferrable=True)

for slow in ("before", "after"):
    with DAG(f"user_slow_{slow}", schedule=None):
        SlowSubmit(task_id="step", slow=slow, mark=f"slow_{slow}", seconds=240)
