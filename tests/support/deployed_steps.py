"""Steps of one backend in a real Airflow, which wait until their test lets them go.

The DAGs are made by ``tests/airflow_deployed/dags/waiting_steps.py``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.deployment import Deployment
from tests.support.waiting import wait_until

Json = dict[str, Any]
WAYS = ("running", "deferred")
ENDED_BY_USER = [(act, way) for way in WAYS for act in ("failed", "cleared")]


@dataclass
class DeployedSteps:
    """The DAGs of one backend, and its jobs.

    :param prefix: of the ids of the DAGs; those of the jobs have it with ``-`` for ``_``
    :param report: returns the jobs of the emulator: name -> what the emulator knows
    :param is_stopped: whether a job was ended by somebody, as the emulator says
    :param is_over: whether a job has ended
    """

    airflow: Deployment
    prefix: str
    report: Callable[[], Mapping[str, Json]]
    is_stopped: Callable[[Json], bool]
    is_over: Callable[[Json], bool]

    def dag(self, name: str) -> str:
        return f"{self.prefix}_{name}"

    def jobs(self, text: str) -> dict[str, Json]:
        """Return the jobs whose name has ``text``."""
        return {name: job for name, job in self.report().items() if text in name}

    def jobs_of(self, name: str) -> dict[str, Json]:
        """Return the jobs of a DAG."""
        return self.jobs(self.dag(name).replace("_", "-"))

    def lines(self, dag: str, run: str, task: str, **which: Any) -> list[str]:
        """Return the lines of a task's log."""
        log = self.airflow.log(self.dag(dag), run, task, **which)
        return [json.loads(line)["event"] for line in log.splitlines()]

    def wait_started(self, mark: str, count: int = 1) -> None:
        airflow = self.airflow
        airflow.wait_for(lambda: airflow.count(f"{mark}.started") >= count, f"start {count} of {mark}")

    # -- a step that waits in the worker, and one that waits deferred

    def begin(self, dag: str) -> str:
        """Start a step in each way, and return the run."""
        run = self.airflow.trigger(self.dag(dag))
        for way in WAYS:
            self.wait_started(f"{self.dag(dag)}.{run}.{way}")
            self.airflow.wait_state(self.dag(dag), run, way, way)
        self.airflow.wait_trigger(self.dag(dag), run, "deferred")
        return run

    def let_go(self, dag: str, run: str) -> None:
        for way in WAYS:
            self.airflow.let_go(f"{self.dag(dag)}.{run}.{way}")

    def finish(self, dag: str, run: str, before: set[str]) -> None:
        """Let the steps end. Each has run once, in one job, and within one try of its task."""
        self.let_go(dag, run)
        where = self.dag(dag), run
        states = self.airflow.wait_run(*where)
        assert states == dict.fromkeys(WAYS, "success"), "".join(
            self.airflow.log(*where, way)[-3000:] for way in WAYS
        )
        assert [self.airflow.count(f"{self.dag(dag)}.{run}.{way}.started") for way in WAYS] == [1, 1]
        found = {self.airflow.xcom(*where, way)["job"] for way in WAYS}
        assert self.jobs_of(dag).keys() - before == found
        assert [self.airflow.instance(*where, way)["try_number"] for way in WAYS] == [1, 1]


class CloudSteps:
    """What holds for the steps of every backend. A test class has a fixture ``steps``, for its module."""

    def test_a_deferred_step_shows_its_lines_while_it_runs_and_resumes(self, steps: DeployedSteps) -> None:
        airflow, dag = steps.airflow, steps.dag("log")
        run = airflow.trigger(dag)
        airflow.wait_state(dag, run, "waits", "deferred")
        one, two = (f"line {word} of {airflow.marks}/{dag}" for word in ("one", "two"))
        airflow.wait_for(lambda: one in steps.lines("log", run, "waits"), "its first line")
        assert airflow.state(dag, run, "waits") == "deferred"
        airflow.let_go(dag)
        assert airflow.wait_run(dag, run) == {"waits": "success"}
        found = steps.lines("log", run, "waits")
        assert [line for line in found if line in (one, two)] == [one, two]
        assert not [line for line in found if "STEPOP-RECEIPT" in line]
        (job,) = steps.jobs_of("log")
        assert airflow.xcom(dag, run, "waits") == {"number": 0, "job": job}

    @pytest.fixture
    def while_ten_run(self) -> Callable[[str], None]:
        """Return what a backend asks while ten steps run. It is called with the id of the run."""
        return lambda run: None

    def test_ten_steps_at_once(self, steps: DeployedSteps, while_ten_run: Callable[[str], None]) -> None:
        airflow, dag = steps.airflow, steps.dag("ten")
        run = airflow.trigger(dag)
        steps.wait_started(dag, 10)
        assert not any(steps.is_over(job) for job in steps.jobs_of("ten").values())
        while_ten_run(run)
        airflow.let_go(dag)
        assert set(airflow.wait_run(dag, run).values()) == {"success"}
        found = [airflow.xcom(dag, run, "waits", map_index=index) for index in range(10)]
        assert [one["number"] for one in found] == list(range(10))
        assert {one["job"] for one in found} == set(steps.jobs_of("ten"))
        assert airflow.count(f"{dag}.started") == 10, "no step was started twice"
        for index in range(10):
            lines = steps.lines("ten", run, "waits", map_index=index)
            assert len([line for line in lines if line.startswith("line two of")]) == 1

    @pytest.fixture(scope="class")
    @classmethod
    def ended(cls, steps: DeployedSteps) -> str:
        """A run whose steps have all started."""
        airflow, dag = steps.airflow, steps.dag("user")
        run = airflow.trigger(dag)
        for act, way in ENDED_BY_USER:
            steps.wait_started(f"{dag}.{act}_{way}")
            airflow.wait_state(dag, run, f"{act}_{way}", way)
            if way == "deferred":
                airflow.wait_trigger(dag, run, f"{act}_{way}")
        return run

    @pytest.mark.parametrize("way", WAYS)
    def test_the_user_ends_a_step(self, steps: DeployedSteps, ended: str, way: str) -> None:
        airflow, dag = steps.airflow, steps.dag("user")
        airflow.patch(dag, ended, f"failed_{way}", "failed")
        (name,) = steps.jobs(f"failed-{way}-").keys() & steps.jobs_of("user").keys()
        wait_until(
            lambda: steps.report()[name],
            "its job to stop",
            holds=steps.is_stopped,
            explain=lambda: [airflow.logs(dag, ended, f"failed_{way}"), airflow.output_of("triggerer")],
        )
        assert airflow.count(f"{dag}.failed_{way}.started") == 1

    @pytest.mark.parametrize("way", WAYS)
    def test_a_clear_ends_the_job_and_starts_another(
        self, steps: DeployedSteps, ended: str, way: str
    ) -> None:
        airflow, dag = steps.airflow, steps.dag("user")
        mark, mine = f"{dag}.cleared_{way}", lambda: steps.jobs(f"cleared-{way}-")
        (first,) = mine()
        airflow.clear(dag, ended, f"cleared_{way}")
        steps.wait_started(mark, 2)
        assert steps.is_over(steps.report()[first]), "it ended before the other began"
        airflow.let_go(mark)
        assert airflow.wait_state(dag, ended, f"cleared_{way}") == "success"
        (second,) = mine().keys() - {first}
        assert airflow.xcom(dag, ended, f"cleared_{way}")["job"] == second
