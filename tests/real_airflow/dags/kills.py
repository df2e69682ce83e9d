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


class Dying(RemoteStepOperator):
    """A step whose worker dies at ``die_at``."""

    def __init__(self, *, die_at: str = "", mark: str = "", seconds: float = 3, **kwargs):
        self.die_at, self.mark = die_at, mark
        script = f'echo $$ >> "{MARKS}/{mark}.$STEPOP_TEST_RUN"; sleep {seconds}; '
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
    """A step whose submit takes long, before or after the job was started."""

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
                time.sleep(3)
            handle = submit(spec, payload)
            if self.slow == "after":
                time.sleep(3)
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
                time.sleep(6)
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
    "running": {"seconds": 60},
    "deferred": {"seconds": 60, "deferrable": True},
    "quick": {"seconds": 0.5},
    "quick_deferred": {"seconds": 0.5, "deferrable": True},
    "five": {"seconds": 8, "deferrable": True},
    "five_running": {"seconds": 8},
    "long": {"seconds": 40, "deferrable": True},
    "late": {"seconds": 60, "deferrable": True, "execution_timeout": timedelta(seconds=6)},
    "late_running": {"seconds": 60, "execution_timeout": timedelta(seconds=6)},
}.items():
    with DAG(f"user_{name}", schedule=None):
        Dying(task_id="step", mark=name, **arguments)

with DAG("user_asking", schedule=None):
    Asking(task_id="step", mark="asking", seconds=60)

with DAG("user_broken", schedule=None):
    BrokenTrigger(task_id="step", mark="broken", seconds=8, deferrable=True)

for slow in ("before", "after"):
    with DAG(f"user_slow_{slow}", schedule=None):
        SlowSubmit(task_id="step", slow=slow, mark=f"slow_{slow}", seconds=60)
