"""The fault matrix: the counted result of each fault, as ``docs/backends/kubernetes-faults.md`` shows it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.paths import DOCS
from tests.support.waiting import wait_until

PAGE = DOCS / "backends" / "kubernetes-faults.md"
BEGIN, END = "<!-- the table: written by make faults -->", "<!-- the end of the table -->"
COLUMNS = (
    "| Fault | Steps | Tasks | Jobs of a step | Duplicates | Orphans | Lost results | Retries spent "
    "| Its log says |"
)
PAGE_OF_INSTANCES = 100


@dataclass(frozen=True)
class Row:
    """One fault, and what was counted once its tasks were over."""

    fault: str
    steps: int
    state: str
    generations: int
    duplicates: int
    orphans: int
    lost: int
    retries: int
    log: str

    def __str__(self) -> str:
        cells = [self.fault, self.steps, self.state, self.generations, self.duplicates, self.orphans]
        return f"| {' | '.join(map(str, [*cells, self.lost, self.retries, f'`{self.log}`']))} |"


@dataclass
class FaultTable:
    """The rows, in the order of the tests."""

    rows: list[Row] = field(default_factory=list)

    def write(self) -> None:
        """Write the measured rows into the page. A fault that was not measured keeps its row."""
        page = PAGE.read_text()
        before, _, rest = page.partition(BEGIN)
        found = {line.split(" | ")[0]: line for line in table_of(page).splitlines()[2:]}
        found |= {str(row).split(" | ")[0]: str(row) for row in self.rows}
        text = "\n".join([COLUMNS, "|---|---|---|---|---|---|---|---|---|", *found.values()])
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")


class FaultRun:
    """One run of a DAG of ``dags/faults.py``, from its start to its row in the table."""

    def __init__(self, airflow, census, table, name: str) -> None:
        self.airflow, self.census, self.table = airflow, census, table
        self.dag_id = f"fault_{name}"
        self.run = airflow.trigger(self.dag_id)
        self._steps = 0

    @property
    def instances(self):
        path, found = f"dags/{self.dag_id}/dagRuns/{self.run}/taskInstances", []
        while True:
            page = self.airflow.get(path, limit=PAGE_OF_INSTANCES, offset=len(found))
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return [one for one in found if one["map_index"] >= 0]

    @property
    def steps(self) -> int:
        if not self._steps:
            self.airflow.wait_for(lambda: bool(self.instances), f"the steps of {self.dag_id}")
            self._steps = len(self.instances)
        return self._steps

    def wait_running(self, count=None):
        """Wait until the steps run and their tasks are deferred; return the pods."""
        wanted = count or self.steps
        self.airflow.wait_for(
            lambda: len(self.census.running(self.run)),
            f"{wanted} steps of {self.dag_id} to run",
            self.describe,
            holds=lambda count: count >= wanted,
        )
        self.wait_state("deferred", wanted)
        return self.census.running(self.run)

    def wait_refused(self):
        """Wait until the node has refused the pods of all steps."""
        self.airflow.wait_for(
            lambda: len(self.census.refused(self.run)),
            f"{self.steps} refused pods of {self.dag_id}",
            self.describe,
            holds=lambda count: count >= self.steps,
        )

    def wait_jobs(self, count=1):
        self.airflow.wait_for(
            lambda: len(self.census.jobs(self.run)),
            f"{count} jobs of {self.dag_id}",
            self.describe,
            holds=lambda found: found >= count,
        )
        return self.census.jobs(self.run)

    def wait_state(self, state, count):
        self.airflow.wait_for(
            lambda: sum(one["state"] == state for one in self.instances),
            f"{count} tasks of {self.dag_id} to be {state}",
            self.describe,
            holds=lambda found: found >= count,
        )

    def logs(self, number):
        """Return the logs of all tries of a step. A try whose worker was killed at once has none."""
        (instance,) = [one for one in self.instances if one["map_index"] == number]
        found = []
        for attempt in range(1, (instance["try_number"] or 1) + 1):
            try:
                found.append(self.airflow.log(self.dag_id, self.run, "step", attempt, number))
            except Exception as error:
                found.append(f"no log of try {attempt}: {error}")
        return "\n".join(found)

    def describe(self):
        states = [(one["map_index"], one["state"], one["try_number"]) for one in self.instances]
        return f"{states}\n{self.census.generations(self.run)}\n{self.logs(states[0][0])[-20000:]}"

    def settle(self, fault, *, log, state="success", generations=1, retries=0):
        """Wait until the tasks are over, count, compare with the expected row, and add the row.

        :param log: text that the log of one of the tasks must have
        :param generations: how many jobs a step may have had
        :param retries: how many of Airflow's retries each task may have used
        """
        steps = self.steps
        over = f"dags/{self.dag_id}/dagRuns/{self.run}"
        self.airflow.wait_for(
            lambda: self.airflow.get(over)["state"],
            f"the end of {self.dag_id}",
            self.describe,
            holds=lambda found: found in ("success", "failed"),
        )
        instances = self.instances
        states = {one["state"] for one in instances}
        counts = self.census.generations(self.run)
        unexplained = sum(max(count - generations, 0) for count in counts.values())
        orphans = self._orphans()
        row = Row(
            fault,
            steps,
            "/".join(sorted(states)),
            max(counts.values(), default=0),
            len(self.census.overlaps(self.run)) + unexplained,
            len(orphans),
            sum(not self._is_right(number) for number in range(steps)) if state == "success" else 0,
            sum(one["try_number"] - 1 for one in instances) - self._overtaken(),
            log,
        )
        expected = Row(fault, steps, state, generations, 0, 0, 0, retries * steps, log)
        assert row == expected, f"{orphans}\n{self.describe()}"
        texts = (self.logs(number) for number in range(steps))
        assert any(log in text for text in texts), f"{log!r} is in no log:\n{self.describe()}"
        self.table.rows.append(row)

    def _overtaken(self):
        """Return how often the scheduler took a task that had just deferred or resumed for a failed one.

        With too little CPU time, the scheduler learns of a worker's end too late.
        """
        task = f"<TaskInstance: {self.dag_id}.step {self.run} "
        lines = (self.airflow.home / "scheduler.log").read_text().splitlines()
        return sum(task in line and "state attribute is queued" in line for line in lines)

    def _is_right(self, number):
        try:
            found = self.airflow.xcom(self.dag_id, self.run, "step", map_index=number)
        except Exception:
            return False
        return found == {"number": number, "data": "x" * (10_000 if number % 5 == 4 else 200)}

    def _orphans(self):
        """Return the jobs and pods that do not go away in time."""
        with suppress(AssertionError):  # the row counts them
            wait_until(self._left, "nothing to be left", holds=lambda left: not left, pause_s=0.5)
        return self._left()

    def _left(self):
        return self.census.left(self.run)


def table_of(page: str) -> str:
    """Return the table from the text of the page."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()
