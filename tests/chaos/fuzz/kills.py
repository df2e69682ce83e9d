"""Runs steps from start to result while processes around them are killed at random.

``PYTHONPATH=. python kills.py FOLDER SEED...`` writes ``FOLDER/SEED.json`` for each seed: the events and the
counts.

This program plays Airflow's part, by Airflow's rules: a dead worker's task is tried again from the start, a
deferred task waits for its trigger, and the trigger of a dead triggerer is created again. All else is the
real code: operator, worker session, trigger, hook, supervisor, runner.

Every try and every trigger runs in a process of its own, and SIGKILL may end it at a random moment or
operation. These processes are forks, since importing Airflow takes longer than a try.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred

from airflow_stepop import RemoteStepOperator
from airflow_stepop.hooks.common.zipapp import runner_zipapp
from airflow_stepop.retries import RemoteStepRetryPolicy
from airflow_stepop.triggers import RemoteStepTrigger
from tests.support.processes import of_job, parent_of, with_variable
from tests.support.waiting import PATIENCE_S

AT_ONCE = 4
CALM_AFTER = 12  # tries; later ones are not disturbed, so that the step must finish
MOST_TRIES = 40
OPERATIONS = ("open", "os.", "subprocess.Popen", "shutil.", "fcntl.", "tempfile.")
MOST_OPERATIONS = 160  # of a try, approximately

SCRIPT = """
exec 9> "$MARK.lock"
flock -n 9 || echo $$ >> "$MARK.overlap"
echo $$ >> "$MARK"
sleep $SECONDS_LONG
printf '[%s]' "$VALUE" > result.json
"""


class FileState:
    """Airflow's ``task_state_store`` as a file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, key: str) -> Any:
        return read(self.path)

    def set(self, key: str, value: Any) -> None:
        write(self.path, value)


def write(path: Path, value: Any) -> None:
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(value))
    draft.rename(path)


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


class World:
    """One task instance and the random events that it meets."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.chance = random.Random(seed)
        self.seconds = round(self.chance.uniform(0, 0.8), 2)
        self.is_deferrable = self.chance.random() < 0.5
        self.try_number = 1
        self.events: list[str] = []
        self.deaths_of_jobs = 0
        self.clears = 0
        folder.mkdir()
        os.environ["AIRFLOW_HOME"] = str(folder)

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def jobs(self) -> Path:
        return self.folder / "stepop" / "jobs"

    # -- Airflow's part

    def run(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while not self.path("xcom").exists() and time.monotonic() < end and self.try_number < MOST_TRIES:
            self.one_try()
        return self.counted()

    def one_try(self) -> None:
        for name in ("deferral", "event", "error"):
            self.path(name).unlink(missing_ok=True)
        self.disturbed("worker", lambda: self.worker(None))
        while self.path("deferral").exists() and not self.path("event").exists():
            self.disturbed("triggerer", self.triggerer)
            if self.is_cleared():
                return
        if self.path("event").exists():
            event = read(self.path("event"))
            self.disturbed("resumed worker", lambda: self.worker(event))
        if not self.path("xcom").exists() and not self.is_cleared():
            self.try_number += 1

    def is_cleared(self) -> bool:
        """Let a user clear the task now and then. The old try is over by then."""
        if self.is_calm or self.clears >= 2 or self.chance.random() > 0.08:
            return False
        self.clears += 1
        self.try_number += 1
        self.events.append("cleared")
        return True

    @property
    def is_calm(self) -> bool:
        return self.try_number >= CALM_AFTER

    def disturbed(self, who: str, work: Callable[[], object]) -> None:
        """Run ``work`` in a process of its own; perhaps kill this process or the job on the way."""
        kinds = ("nothing", "moment", "operation", "job")
        kind = "nothing" if self.is_calm else self.chance.choices(kinds, (2, 3, 4, 1))[0]
        number = self.chance.randint(1, MOST_OPERATIONS)
        moment_s = self.chance.uniform(0, self.seconds + 0.4)
        pid = os.fork()
        if pid == 0:
            child(work, number if kind == "operation" else 0)
        self.events.append(f"{who}: {kind}")
        if kind == "moment":
            self.wait(pid, moment_s)
            os.kill(pid, signal.SIGKILL)
        elif kind == "job":
            self.wait(pid, moment_s)
            self.kill_part_of_job()
        if self.wait(pid, PATIENCE_S) is None:
            self.events.append(f"{who}: did not end")
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)

    @staticmethod
    def wait(pid: int, limit_s: float) -> int | None:
        """Wait for a child to end without reaping it, so that its pid is not reused."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return pid
            time.sleep(0.005)
        return None

    def kill_part_of_job(self) -> None:
        """Kill the supervisor or the runner. The step itself is left alone: its death would be its result."""
        record = read(self.path("state"))
        state = read(self.jobs / record["name"] / "state.json") if record else None
        if state is None or state["finished_at"] is not None:
            return
        supervisor = state["pid"]
        runners = [pid for pid in of_job(record["nonce"]) if parent_of(pid) == supervisor]
        with suppress(ProcessLookupError):
            os.kill(self.chance.choice([supervisor, *runners]), signal.SIGKILL)
        self.deaths_of_jobs += 1

    # -- the work of one process

    def worker(self, event: dict[str, Any] | None) -> None:
        operator = RemoteStepOperator(
            task_id="step",
            dag=DAG("fuzz"),
            command=["sh", "-c", SCRIPT],
            outputs=["result.json"],
            env={
                "MARK": str(self.path("mark")),
                "SECONDS_LONG": str(self.seconds),
                "VALUE": str(self.seed),
            },
            deferrable=self.is_deferrable,
            keep="never",
            poll_interval=0.05,
        )
        context: Any = {
            "task_state_store": FileState(self.path("state")),
            "ti": SimpleNamespace(
                dag_id="fuzz",
                run_id=f"run-{self.seed}",
                task_id="step",
                map_index=-1,
                max_tries=MOST_TRIES + self.clears,  # a clear raises this number, a retry does not
                try_number=self.try_number,
                start_date=datetime.now(UTC),
            ),
            "dag_run": SimpleNamespace(clear_number=self.clears),
        }
        try:
            session = operator._open(context)
            value = session.begin() if event is None else session.resume(event)
        except TaskDeferred as deferred:
            write(self.path("deferral"), deferred.trigger.serialize()[1])
        except Exception as error:
            is_final = RemoteStepRetryPolicy().evaluate(error, 1, MOST_TRIES).action.name == "FAIL"
            self.log(f"{'final' if is_final else 'passing'} {type(error).__name__}: {error}")
        else:
            write(self.path("xcom"), value)

    def triggerer(self) -> None:
        trigger = RemoteStepTrigger(**read(self.path("deferral")))

        async def first() -> Any:
            async for event in trigger.run():
                return event.payload

        write(self.path("event"), asyncio.run(first()))

    def log(self, line: str) -> None:
        with self.path("errors").open("a") as file:
            file.write(f"{line}\n")

    # -- the counts

    def counted(self) -> dict[str, Any]:
        lines = self.path("mark").read_text().splitlines() if self.path("mark").exists() else []
        record = read(self.path("state")) or {}
        jobs = self.jobs
        errors = self.path("errors").read_text().splitlines() if self.path("errors").exists() else []
        return {
            "seed": self.seed,
            "value": read(self.path("xcom")),
            "started": len(lines),
            "generation": record.get("generation"),
            "overlaps": self.path("mark.overlap").exists(),
            "orphans": with_variable(f"MARK={self.path('mark')}"),
            "folders": sorted(path.name for path in jobs.iterdir() if path.name != ".new")
            if jobs.exists()
            else [],
            "deaths_of_jobs": self.deaths_of_jobs,
            "clears": self.clears,
            "final_errors": [line for line in errors if line.startswith("final")],
            "events": self.events,
            "errors": errors,
        }


def child(work: Callable[[], object], die_at: int) -> NoReturn:
    """Run ``work`` and exit without the parent's cleanup."""
    os.setsid()
    if die_at:
        die_at_operation(die_at)
    try:
        work()
    except BaseException:
        logging.exception("this must not happen")
        os._exit(1)
    os._exit(0)


def die_at_operation(number: int) -> None:
    """Kill this process at its operation ``number``.

    Between two operations, the moment makes no difference.
    """
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event.startswith(OPERATIONS) and not str(*arguments[:1]).startswith("/proc"):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def live(folder: Path, seed: int) -> None:
    write(folder / f"{seed}.json", World(folder / str(seed), seed).run())


def main(folder: Path, seeds: list[int]) -> None:
    runner_zipapp()  # builds the runner's zip once
    running: dict[int, int] = {}
    while seeds or running:
        while seeds and len(running) < AT_ONCE:
            seed = seeds.pop(0)
            pid = os.fork()
            if pid == 0:
                child(partial(live, folder, seed), 0)
            running[pid] = seed
        pid, _ = os.wait()
        shutil.rmtree(folder / str(running.pop(pid)), ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(seed) for seed in sys.argv[2:]])
