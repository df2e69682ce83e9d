"""Runs DAGs of real steps with ``dag.test()``. Each test worker has one process for its DAGs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from select import select
from typing import Any

import pytest

from airflow_stepop.core.naming import slug
from airflow_stepop.stores.base import StoredObject
from airflow_stepop.stores.configured import open_store
from tests.support import dag_test_process
from tests.support.buckets import BucketServer

DAG_S = 800.0  # a DAG of a hundred tasks, one after the other, on a busy machine


@dataclass(frozen=True)
class Place:
    """Where a run keeps its results, and the marks that its tasks leave for the tests."""

    kind: str
    store: str
    marks: Path
    env: Mapping[str, str]


@dataclass
class Run:
    """A finished run of a DAG, read from Airflow's database."""

    answer: Mapping[str, Any]
    place: Place
    log_file: Path

    @property
    def states(self) -> dict[str, str]:
        return self.answer["states"]

    @property
    def xcoms(self) -> dict[str, dict[str, Any]]:
        """Return task -> key -> value as Airflow stores it. References to results are not loaded."""
        return self.answer["xcoms"]

    @property
    def records(self) -> dict[str, str]:
        return self.answer["records"]

    def value(self, task: str) -> Any:
        return self.xcoms[task]["return_value"]

    def log(self, task: str) -> str:
        data = self.log_file.read_bytes()
        tries = self.answer["tasks"].get(task, {}).get("tries", [])
        return b"".join(data[one["begin"] : one["end"]] for one in tries).decode(errors="replace")

    def tries(self, task: str) -> int:
        return len(self.answer["tasks"][task]["tries"])

    def error(self, task: str) -> dict[str, Any]:
        """Return the error of the last try."""
        assert self.states[task] == "failed", self.log(task)
        return self.answer["tasks"][task]["tries"][-1]["error"]

    def results(self, task: str) -> list[StoredObject]:
        """Return the objects of this run's results of a task in the store."""
        where = f"/{slug(self.answer['run_id'], 60)}/{task}/"
        return [found for found in open_store(self.place.store).objects("results") if where in found.path]

    def assert_state(self, task: str, state: str = "success") -> None:
        assert self.states.get(task) == state, f"{task} is {self.states.get(task)}\n{self.log(task)[-6000:]}"


class AirflowProcess:
    """One Airflow home, one process, any number of DAGs."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.extra = dict(env or {})
        self.home = folder / "home"
        self.dags = folder / "dags"
        self.marks = folder / "marks"
        self.log_file = folder / "log.txt"
        for path in (self.home, self.dags, self.marks):
            path.mkdir(parents=True)

    @property
    def env(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PYTEST", "STEPOP"))}
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__STEPOP__POLL_INTERVAL": "0.1",
            "AIRFLOW__STEPOP__CAPACITY_PAUSE": "0.2",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "STEPOP_TEST_MARKS": str(self.marks),
            "PYTHONWARNINGS": "ignore",
            **self.extra,
        }

    @cached_property
    def process(self) -> subprocess.Popen[bytes]:
        self._answers, answers = os.pipe()
        with self.log_file.open("ab") as log:
            process = subprocess.Popen(
                # -P: the folder of this file has a modal.py
                [sys.executable, "-P", dag_test_process.__file__, str(answers)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                pass_fds=[answers],
            )
        os.close(answers)
        return process

    def place(self, kind: str, store: str = "", env: Mapping[str, str] | None = None) -> Place:
        marks = self.marks / kind
        marks.mkdir(exist_ok=True)
        named = {"AIRFLOW__STEPOP__STORE": store, "STEPOP_TEST_MARKS": str(marks)}
        return Place(kind, store or str(self.home / "stepop" / "store"), marks, {**named, **(env or {})})

    def run(
        self, dag_file: Path, dag_id: str | None = None, place: Place | None = None, **request: Any
    ) -> Run:
        """Run a DAG file, and return the finished run.

        Files and folders whose names begin with the same word are copied with it.
        """
        place = place or self.place("folder")
        for path in dag_file.parent.glob(f"{dag_file.stem.partition('_')[0]}*"):
            if path.is_dir():
                shutil.copytree(path, self.dags / path.name, dirs_exist_ok=True)
            else:
                shutil.copy(path, self.dags / path.name)
        env = {**place.env, **request.pop("env", {})}
        body = {
            "file": str(self.dags / dag_file.name),
            "dag_id": dag_id or dag_file.stem,
            "env": env,
            **request,
        }
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(json.dumps(body).encode() + b"\n")
        stdin.flush()
        is_answered, _, _ = select([self._answers], [], [], DAG_S)
        assert is_answered, f"waited {DAG_S:g} s for the end of {dag_file}\n{self.output()}"
        with os.fdopen(os.dup(self._answers), "rb") as stream:
            line = stream.readline()
        assert line, self.output()
        answer = json.loads(line)
        assert "states" in answer, answer.get("crash") or answer
        return Run(answer, place, self.log_file)

    def output(self) -> str:
        return self.log_file.read_text(errors="replace")[-5000:]

    def end(self) -> None:
        if "process" in vars(self):
            self.process.kill()
            self.process.communicate()
            os.close(self._answers)


@pytest.fixture(scope="module")
def start_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., AirflowProcess]]:
    """Return a function that starts another Airflow, with an environment of its own."""
    started: list[AirflowProcess] = []

    def start(**env: str) -> AirflowProcess:
        started.append(AirflowProcess(tmp_path_factory.mktemp("airflow"), env))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture(scope="session")
def airflow_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowProcess]:
    process = AirflowProcess(tmp_path_factory.mktemp("airflow_process"))
    yield process
    process.end()


@pytest.fixture(scope="module", params=["folder", "s3", pytest.param("gs", marks=pytest.mark.long)])
def place(request: pytest.FixtureRequest, airflow_process: AirflowProcess) -> Place:
    """A place for results, in each kind of store."""
    if request.param == "folder":
        return airflow_process.place("folder")
    server: BucketServer = request.getfixturevalue("s3_server" if request.param == "s3" else "gcs_server")
    env = {f"AIRFLOW_CONN_{server.conn_id.upper()}": server.connection()}
    return airflow_process.place(request.param, server.new_address(), env)
