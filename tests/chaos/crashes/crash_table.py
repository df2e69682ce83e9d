"""The crash table: the measured result of each crash, as ``docs/crashes.md`` shows it.

``make crashes`` writes the page. Every other run compares its rows with those of the page.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.paths import DOCS
from tests.support.waiting import wait_until

PAGE = DOCS / "crashes.md"
BEGIN, END = "<!-- the table: written by make crashes -->", "<!-- the end of the table -->"
COLUMNS = "| Crash | Task | Jobs started | At once | Orphans | Results lost | Its log says |"
SETTLED_S = 60.0  # a task that stays in a wrong final state for this long will not leave it
FINISHED = {"success", "failed", "skipped", "upstream_failed", "removed"}


@dataclass(frozen=True)
class Row:
    """One crash, and what was counted once its task was over."""

    group: str
    crash: str
    state: str
    jobs: str
    at_once: int
    orphans: int
    lost: int
    log: str

    def __str__(self) -> str:
        cells = [self.crash, self.state, self.jobs, self.at_once, self.orphans, self.lost, f"`{self.log}`"]
        return f"| {' | '.join(map(str, cells))} |"


@dataclass
class CrashTable:
    """The rows, in the order of the tests."""

    rows: list[Row] = field(default_factory=list)

    def text(self) -> str:
        """Return the page's table as Markdown."""
        lines = []
        for group in dict.fromkeys(row.group for row in self.rows):
            lines += [f"### {group}", "", COLUMNS, "|---|---|---|---|---|---|---|"]
            lines += [str(row) for row in self.rows if row.group == group] + [""]
        return "\n".join(lines)

    def write(self) -> None:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{self.text()}\n{END}{rest.partition(END)[2]}")


@dataclass(frozen=True)
class CrashedTask:
    """One task instance of ``dags/crashes.py``, from its start to its row in the table."""

    airflow: Any
    table: CrashTable
    dag_id: str
    run: str
    task_id: str

    @property
    def where(self) -> tuple[str, str, str]:
        return self.dag_id, self.run, self.task_id

    @property
    def mark(self) -> str:
        return f"{self.dag_id}.{self.task_id}.{self.run}"

    def has(self, ending: str) -> bool:
        return (self.airflow.marks / f"{self.mark}.{ending}").exists()

    def touch(self, ending: str) -> None:
        (self.airflow.marks / f"{self.mark}.{ending}").touch()

    def wait_for(self, ending: str) -> None:
        """Wait until the worker has ``died`` or is ``held``."""
        self.airflow.wait_for(lambda: self.has(ending), f"{self.mark} {ending}", self.logs)

    def wait_for_log(self, text: str) -> None:
        self.airflow.wait_for(
            lambda: text in self.airflow.logs(*self.where), f"{text!r} in the log", self.logs
        )

    def wait_scheduler_knows(self, state: str) -> None:
        """Wait until the scheduler has processed the worker's end, with the task in ``state``."""
        dag_id, run_id, task_id = self.where
        names = re.escape(f"dag_id={dag_id}, task_id={task_id}, run_id={run_id}")
        heard = re.compile(rf"TaskInstance Finished: {names}, .* state={state}, executor=")
        log = self.airflow.home / "scheduler.log"
        self.airflow.wait_for(
            lambda: heard.search(log.read_text(errors="replace")), f"its scheduler to hear of {self.mark}"
        )

    def logs(self) -> str:
        return str(self.airflow.logs(*self.where)[-8000:])

    def wait_watched(self) -> None:
        """Wait until the running triggerer has the trigger.

        A triggerer killed before may have had it, too.
        """
        dag_id, run_id, task_id = self.where
        folder = self.airflow.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}" / f"task_id={task_id}"
        began = time.time() - self.airflow.age_s("triggerer")

        def is_watched() -> bool:
            return any(log.stat().st_mtime > began for log in folder.glob("*.trigger.*"))

        self.airflow.wait_for(is_watched, "the trigger in this triggerer", self.logs)

    def wait_started(self, count: int = 1, *, is_deferred: bool = False) -> None:
        """Wait until the step runs and, if the task is deferred, its trigger too.

        After that, no action is half done.
        """
        airflow = self.airflow
        airflow.wait_for(
            lambda: airflow.count(self.mark) >= count, f"start {count} of {self.mark}", self.logs
        )
        if is_deferred:
            airflow.wait_trigger(*self.where)

    def settle(
        self,
        title: tuple[str, str],
        *,
        state: str,
        log: str,
        jobs: int | tuple[int, int] = 1,
        has_value: bool | Callable[[], bool] | None = None,
        was_read: bool = False,
    ) -> None:
        """Wait until the task is over, count, compare with the expected row, and add the row.

        :param title: the row's group and crash
        :param log: text that the log of one of the task's tries must have
        :param jobs: how many must have started; a range if that depends on timing
        :param has_value: whether the task must have pushed its result (default: if it succeeded), or a
            function that tells whether the result has arrived
        :param was_read: the test has already seen ``log``, in a log that Airflow may begin anew
        """
        airflow = self.airflow
        self._wait_for_state(state)
        orphans, started = self._orphans(), airflow.count(self.mark)
        low, high = jobs if isinstance(jobs, tuple) else (jobs, jobs)
        row = Row(
            *title,
            state=airflow.state(*self.where),
            jobs=f"{low} or {high}" if low <= started <= high and low < high else str(started),
            at_once=2 if airflow.count(f"{self.mark}.overlap") else min(high, 1),
            orphans=len(orphans),
            lost=self._lost(state == "success" if has_value is None else has_value),
            log=log,
        )
        expected = Row(*title, state, f"{low} or {high}" if low < high else str(low), min(high, 1), 0, 0, log)
        text = airflow.logs(*self.where)
        assert row == expected, text[-8000:]
        assert was_read or log in text, f"{log!r} is not in the log of {self.mark}:\n{text[-8000:]}"
        self.table.rows.append(row)

    def _lost(self, has_value: bool | Callable[[], bool]) -> int:
        if callable(has_value):
            return int(not has_value())
        return int(has_value and self.airflow.xcom(*self.where) != {"result.json": [self.task_id]})

    def _wait_for_state(self, state: str) -> None:
        """Wait until the task is in ``state``. Fail if it stays in another final state."""
        end = time.monotonic() + SETTLED_S

        def is_there() -> bool:
            nonlocal end
            found = self.airflow.state(*self.where)
            if found == state or found not in FINISHED:
                end = time.monotonic() + SETTLED_S
            assert time.monotonic() < end, f"{self.mark} is {found} and not {state}:\n{self.logs()}"
            return bool(found == state)

        self.airflow.wait_for(is_there, f"{self.mark} to be {state}", self.logs)

    def _orphans(self) -> Sequence[int]:
        """Return the processes of the task's jobs that do not end in time."""
        with suppress(AssertionError):  # the row counts them
            wait_until(self._processes, "its processes to end", holds=lambda left: not left, pause_s=0.2)
        return self._processes()

    def _processes(self) -> list[int]:
        return list(self.airflow.processes_of(*self.where))


def table_of(page: str) -> str:
    """Return the table from the text of the page."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()
