"""``airflow stepop`` with a database of this test process, and with jobs that really ran."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.record import CallIdentity, first_record
from airflow_stepop.testing import make_step
from tests.support import dag_test_process
from tests.support.waiting import wait_until

HERE = Path(__file__).parent


@dataclass
class CommandOutput:
    """The output and the exit code of a command."""

    out: str
    err: str
    code: int

    @property
    def data(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide connections of other tests: the commands use every connection, even one to a cluster."""
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", raising=False)


@pytest.fixture(scope="session")
def home() -> Path:
    """The Airflow home of this test process, with a database in it."""
    from airflow.utils import db

    path = Path(os.environ["AIRFLOW_HOME"])
    db.initdb()
    return path


@pytest.fixture
def stepop(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandOutput]:
    """Run a command of ``airflow stepop`` in this process. A new process would take seconds to start."""
    from airflow.cli.cli_parser import get_parser

    def run(*words: str) -> CommandOutput:
        capsys.readouterr()
        args, code = get_parser().parse_args(["stepop", *words]), 0
        try:
            args.func(args)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        output = capsys.readouterr()
        return CommandOutput(output.out, output.err, code)

    return run


def run_dag(home: Path, file: Path, dag_id: str, **env: str) -> dict[str, Any]:
    """Run a DAG with ``dag.test()`` in a process of its own, and return the answer of that process."""
    reading, writing = os.pipe()
    done = subprocess.run(
        [sys.executable, dag_test_process.__file__, str(writing)],
        input=json.dumps({"file": str(file), "dag_id": dag_id, "env": env}).encode() + b"\n",
        capture_output=True,
        env={
            **os.environ,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(file.parent),
            "AIRFLOW__STEPOP__POLL_INTERVAL": "0.1",
            "PYTHONWARNINGS": "ignore",
            **env,
        },
        pass_fds=[writing],
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        answer = json.loads(stream.readline() or b"{}")
    assert "states" in answer, (answer, done.stdout[-3000:], done.stderr[-3000:])
    return answer


@pytest.fixture(scope="session")
def ran(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished run of ``dags/upkeep.py``."""
    folder = tmp_path_factory.mktemp("dags")
    shutil.copy(HERE / "dags" / "upkeep.py", folder)
    return run_dag(home, folder / "upkeep.py", "upkeep")


@dataclass
class Instance:
    """A task instance of a finished run. A test can put it into any state."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def labels(self) -> dict[str, str]:
        ids = {"dag_id": self.dag_id, "run_id": self.run_id, "task_id": self.task_id}
        return {"deployment": "", **ids, "map_index": str(self.map_index)}

    def set_state(self, state: str | None) -> None:
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from sqlalchemy import update

        with create_session() as session:
            session.execute(
                update(TaskInstance)
                .where(
                    TaskInstance.dag_id == self.dag_id,
                    TaskInstance.run_id == self.run_id,
                    TaskInstance.task_id == self.task_id,
                    TaskInstance.map_index == self.map_index,
                )
                .values(state=state)
            )

    def set_record(self, value: Any, *, is_signed: bool = True) -> None:
        from airflow.sdk.configuration import conf
        from airflow.state import TaskScope, get_state_backend

        from airflow_stepop.record import STATE_KEY, signed

        if is_signed and isinstance(value, dict) and "nonce" in value:
            deployment = conf.get("stepop", "deployment", fallback="")
            value = signed(value, {**self.labels, "deployment": deployment})
        scope = TaskScope(self.dag_id, self.run_id, self.task_id, self.map_index)
        if value is None:
            get_state_backend().delete(scope, STATE_KEY)
        else:
            get_state_backend().set(scope, STATE_KEY, json.dumps(value))

    def new_record(self, **changes: Any) -> Any:
        call = CallIdentity("key", 0, 0)
        record = first_record(call=call, backend="local", conn_id=None, labels=self.labels, generation=1)
        return replace(record, **changes)


class Jobs:
    """Submits real jobs for task instances, and removes them when the test is over."""

    def __init__(self) -> None:
        self.hook = LocalStepHook()
        self.handles: list[JobHandle] = []

    def submit(self, instance: Instance, *argv: str, is_recorded: bool = True, **labels: str) -> JobHandle:
        """Submit ``argv`` as the job of a task instance, and save the record that leads to it."""
        record = instance.new_record()
        wanted = {**record.labels, **labels}
        step = make_step(list(argv), name=record.name)
        spec = replace(step.spec, labels=wanted, nonce=wanted["nonce"])
        handle = self.hook.submit(spec, step.payload)
        if is_recorded:
            instance.set_record(record.with_handle(handle).to_json())
        self.handles.append(handle)
        return handle

    def state(self, handle: JobHandle) -> JobState:
        return self.hook.status([handle])[handle].state

    def wait(self, handle: JobHandle) -> JobState:
        return wait_until(
            lambda: self.state(handle), f"{handle} to end", holds=lambda state: state.is_terminal
        )

    def clear(self) -> None:
        for handle in self.handles:
            self.hook.cancel(handle)
            self.wait(handle)
            self.hook.delete(handle)


@pytest.fixture
def jobs(home: Path) -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.clear()


@pytest.fixture
def instance(ran: dict[str, Any]) -> Iterator[Callable[..., Instance]]:
    """Return a function that returns a task instance of the run. Its state and record are restored."""
    taken: list[tuple[Instance, Any]] = []

    def take(task_id: str, state: str | None = "running") -> Instance:
        from airflow_stepop.inventory.database import TaskKey, raw_record

        one = Instance("upkeep", ran["run_id"], task_id)
        taken.append((one, raw_record(TaskKey(one.dag_id, one.run_id, one.task_id, one.map_index))))
        one.set_state(state)
        return one

    yield take
    for one, record in taken:
        one.set_state(ran["states"][one.task_id])
        one.set_record(record)


@pytest.fixture
def token() -> str:
    return secrets.token_hex(4)
