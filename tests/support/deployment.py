"""A real Airflow for tests: database, API server, scheduler, DAG processor and triggerer, each a process of
its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tests.support.paths import SCRIPTS
from tests.support.processes import ended, is_alive, kill, of_job
from tests.support.waiting import wait_until

T = TypeVar("T")

COMPONENTS = {
    "api-server": ["api-server", "--workers", "1"],
    "scheduler": ["scheduler"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer"],
}
POSTGRES = "STEPOP_POSTGRES"
A_POSTGRES = "a PostgreSQL, and scripts/postgres finds none here (Debian: apt-get install postgresql)"
ELSEWHERE = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$0" "$@"']  # a host of another name
LOOK_S, START_S = 2.0, 60.0  # how often a scheduler is looked at; how long it may take to begin
RUN_S = 480.0  # longer than any other event of Airflow: the end of a run of many tasks, on a busy machine
NO_POSTGRES = 3  # the exit code of scripts/postgres
FINISHED = {"success", "failed", "skipped", "upstream_failed", "removed"}


def free_port() -> int:
    """Return a free port. No outgoing connection takes this port before a server binds it."""
    return int(subprocess.check_output([SCRIPTS / "free_port"]))


class NoPostgresError(Exception):
    """This machine has no PostgreSQL, and there is no wheel of one for its platform."""


class Postgres:
    """A PostgreSQL server of our own; see ``scripts/postgres``. ``STEPOP_POSTGRES`` names another command.

    :raises NoPostgresError: none can run here
    """

    def __init__(self) -> None:
        named = os.environ.get(POSTGRES) or str(SCRIPTS / "postgres")
        self.command = shutil.which(named) or named
        self.folder = tempfile.mkdtemp(prefix="stepop-postgres-")  # not below ours: it runs as another user
        self.url = self.up()

    @classmethod
    def if_any(cls) -> Postgres | None:
        """Start and return a server; ``None`` if this machine has no PostgreSQL."""
        with contextlib.suppress(NoPostgresError):
            return cls()
        return None

    def up(self) -> str:
        return self._run("up")

    def down(self) -> None:
        self._run("down")

    def remove(self) -> None:
        self._run("remove")

    def _run(self, verb: str) -> str:
        # the wheel with PostgreSQL is in the environment that runs the tests
        env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"}
        command = [self.command, verb, self.folder]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        if done.returncode == NO_POSTGRES:
            shutil.rmtree(self.folder)
            raise NoPostgresError(done.stderr)
        assert done.returncode == 0, f"{self.command} {verb} {self.folder}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


@dataclass
class Deployment:
    """One Airflow deployment in a folder of its own, on loopback.

    :param postgres: its database; without one, a file
    :param line: to a server that its tasks use, for tests that cut it
    :param revives: start a component again that has ended, and a scheduler that stands still, as a service
        manager does: one that lost its database was seen to wait for ever for workers that had nothing to do
    :param patience_s: how long it is waited for an event, at most
    """

    home: Path
    dags: Path
    extra_env: Mapping[str, str] = field(default_factory=dict)
    postgres: Postgres | None = None
    line: Any = None
    revives: bool = False
    patience_s: float = RUN_S
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.marks = self.home / "marks"
        self.marks.mkdir(exist_ok=True)
        # in the file: tasks get none of Airflow's database from the environment
        if self.postgres is not None:
            (self.home / "airflow.cfg").write_text(f"[database]\nsql_alchemy_conn = {self.postgres.url}\n")
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self._left_alone: list[int] = []
        self._began: dict[str, float] = {}
        self._looked = 0.0

    @property
    def env(self) -> dict[str, str]:
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "PYTEST", "STEPOP", "COV"))
        }
        url = f"http://127.0.0.1:{self.port}"
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "16",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "32",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": "cZS5nEJXgs5ZVBz1lU8ZpPfxEKzAEBw36fcOBnGYIGw=",
            "AIRFLOW__API_AUTH__JWT_SECRET": "a-secret-for-tests-that-is-long-enough",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
            "AIRFLOW__SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "3",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "20",
            "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "6",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "120",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "180",
            "AIRFLOW__STEPOP__DEPLOYMENT": "tests",
            "AIRFLOW__STEPOP__POLL_INTERVAL": "0.5",
            "STEPOP_TEST_MARKS": str(self.marks),
            **self.extra_env,
        }

    # -- processes

    def up(self) -> None:
        self.run("db", "migrate")
        for name in COMPONENTS:
            self.start(name)
        self.wait_for(self.answers, "the API server")
        token = self.client.post("/auth/token", json={"username": "a", "password": "a"})
        if token.status_code >= 400:
            token = self.client.get("/auth/token")
        token.raise_for_status()
        self.client.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Deployment]:
        """Start all components for the block, and end them after it."""
        try:
            self.up()
            yield self
        finally:
            self.down()

    def answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.client.get("/api/v2/version").status_code == 200
        return False

    def run(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "airflow", *arguments]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise AssertionError(f"airflow {' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def start(self, name: str) -> None:
        """Start a component. ``triggerer-2`` is one more on this host, ``triggerer-3`` on another host."""
        self._began[name] = time.monotonic()
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [
                    *(ELSEWHERE * name.endswith("-3")),
                    sys.executable,
                    "-m",
                    "airflow",
                    *COMPONENTS[name.rstrip("-23")],
                ],
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a component and everything that it started in its session."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        ended(process)

    def kill_alone(self, name: str) -> None:
        """Kill a component. The processes that it started run on until the deployment ends."""
        process = self.processes.pop(name)
        process.kill()
        ended(process)
        self._left_alone.append(process.pid)

    @property
    def database(self) -> str:
        """Return SQLAlchemy's address of Airflow's database."""
        return self.postgres.url if self.postgres else f"sqlite:///{self.home}/airflow.db"

    @contextlib.contextmanager
    def scheduler_without_metrics(self) -> Iterator[None]:
        """Airflow cannot schedule a DAG whose id is no name of a metric while it sends metrics."""
        given = self.extra_env
        self._restart_scheduler({name: value for name, value in given.items() if "METRICS" not in name})
        try:
            yield
        finally:
            self._restart_scheduler(given)

    def _restart_scheduler(self, env: Mapping[str, str]) -> None:
        self.extra_env = env
        self.kill("scheduler")
        self.start("scheduler")

    def down(self) -> None:
        for name in list(self.processes):
            self.kill(name)
        for session in self._left_alone:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)
        self.client.close()
        if self.postgres is not None:
            self.postgres.remove()
        for job in self.all_jobs():
            kill(of_job(job["nonce"]))

    # -- what Airflow says

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request. Repeat it while the API server restarts, or while its SQLite is locked."""
        found: list[httpx.Response] = []

        def is_answered() -> bool:
            with contextlib.suppress(httpx.TransportError):
                found.append(self.client.request(method, f"/api/v2/{path}", **request))
            return bool(found) and found[-1].status_code < 500

        self.wait_for(is_answered, f"an answer to {method} {path}", lambda: found[-1:])
        return found[-1]

    def get(self, path: str, **params: Any) -> Any:
        return self.ask("GET", path, params=params).raise_for_status().json()

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        self.wait_for(lambda: self.has_dag(dag_id), f"DAG {dag_id}")
        run_id = run_id or f"manual__{uuid.uuid4().hex[:12]}"
        body = {"logical_date": None, "conf": dict(conf or {}), "dag_run_id": run_id}
        answer = self.ask("POST", f"dags/{dag_id}/dagRuns", json=body)
        if answer.status_code != 409:  # 409: an earlier request succeeded, and its answer was lost
            answer.raise_for_status()
        return run_id

    def has_dag(self, dag_id: str) -> bool:
        errors = self.get("importErrors")["import_errors"]
        if errors:
            raise AssertionError("\n".join(error["stack_trace"] for error in errors))
        return self.ask("GET", f"dags/{dag_id}").status_code == 200

    def instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return dict(self.get(path if map_index < 0 else f"{path}/{map_index}"))

    def state(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str | None:
        return self.instance(dag_id, run_id, task_id, map_index)["state"]

    def wait_state(self, dag_id: str, run_id: str, task_id: str, *states: str) -> str:
        """Wait until the task is in one of ``states`` (default: any final one) and return it."""
        wanted = set(states) or FINISHED
        found = self.wait_for(
            lambda: self.state(dag_id, run_id, task_id),
            f"{task_id} to be {' or '.join(sorted(wanted))}",
            lambda: self.log(dag_id, run_id, task_id)[-3000:],
            holds=lambda state: state in wanted,
        )
        return str(found)

    def wait_trigger(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Wait until the task is deferred and its trigger runs. Nobody notices a user who ends it earlier."""
        self.wait_state(dag_id, run_id, task_id, "deferred")
        self.wait_for(
            lambda: re.search(r"trigger .* starting", self.log(dag_id, run_id, task_id)),
            f"the trigger of {task_id} to start",
            lambda: self.log(dag_id, run_id, task_id)[-3000:],
        )

    def wait_run(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Wait until the run is over and return task id -> state."""
        path = f"dags/{dag_id}/dagRuns/{run_id}"
        self.wait_for(
            lambda: self.get(path)["state"],
            f"the end of run {run_id} of {dag_id}",
            lambda: self._what_holds_up(dag_id, run_id),
            holds=lambda state: state in ("success", "failed"),
        )
        return self.states(dag_id, run_id)

    def _what_holds_up(self, dag_id: str, run_id: str) -> str:
        """Return the tasks that are not over, each with the end of its log, and the ends of the services'
        logs.
        """
        unfinished = [
            f"{task_id} is {state}\n{self.log(dag_id, run_id, task_id)[-3000:]}"
            for task_id, state in self.states(dag_id, run_id).items()
            if state not in FINISHED and "[" not in task_id
        ]
        services = [f"{name}:\n{self.output_of(name)}" for name in self.processes]
        return "\n\n".join((unfinished or ["all its tasks are over"]) + services)

    def output_of(self, name: str) -> str:
        """Return the end of a component's output."""
        return (self.home / f"{name}.log").read_text()[-3000:]

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", limit=500)["task_instances"]
        return {
            t["task_id"] if t["map_index"] < 0 else f"{t['task_id']}[{t['map_index']}]": t["state"]
            for t in found
        }

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.get(path, map_index=map_index, deserialize="false")["value"]

    def log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int | None = None, map_index: int = -1
    ) -> str:
        """Return the task's log as text: one event per line."""
        if try_number is None:
            try_number = self.instance(dag_id, run_id, task_id, map_index)["try_number"] or 1
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        content = self.get(path, map_index=map_index, full_content="true")["content"]
        return "\n".join(line if isinstance(line, str) else json.dumps(line) for line in content)

    def logs(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Return the logs of all tries of a task; a try whose worker could not start has none."""
        found = []
        for number in range(1, (self.instance(dag_id, run_id, task_id)["try_number"] or 1) + 1):
            with contextlib.suppress(httpx.HTTPStatusError):
                found.append(self.log(dag_id, run_id, task_id, number))
        return "\n".join(found)

    def patch(self, dag_id: str, run_id: str, task_id: str, new_state: str) -> None:
        """Mark a task, as a user does in the UI."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.ask("PATCH", path, json={"new_state": new_state}).raise_for_status()

    def clear(self, dag_id: str, run_id: str, *task_ids: str) -> None:
        """Clear tasks, as a user does in the UI."""
        body = {
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "dry_run": False,
            "only_failed": False,
            "only_running": False,
            "reset_dag_runs": True,
        }
        self.ask("POST", f"dags/{dag_id}/clearTaskInstances", json=body).raise_for_status()

    def let_go(self, mark: str) -> None:
        """Let a step end that waits for this; see the test DAGs."""
        (self.marks / f"{mark}.go").touch()

    # -- what really happened

    def all_jobs(self) -> list[dict[str, Any]]:
        found = []
        for request in (self.home / "stepop" / "jobs").glob("*/request.json"):
            with contextlib.suppress(ValueError, OSError):
                found.append(json.loads(request.read_text()))
        return found

    def jobs_of(self, dag_id: str, run_id: str, task_id: str) -> list[dict[str, Any]]:
        wanted = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
        return [job for job in self.all_jobs() if wanted.items() <= job["labels"].items()]

    def processes_of(self, dag_id: str, run_id: str, task_id: str) -> list[int]:
        """Return every process of the task's jobs."""
        return [pid for job in self.jobs_of(dag_id, run_id, task_id) for pid in of_job(job["nonce"])]

    def count(self, mark: str) -> int:
        """Return how often a step has left its mark; see ``mark`` in the test DAGs."""
        path = self.marks / mark
        return len(path.read_text().splitlines()) if path.exists() else 0

    def pids(self, mark: str) -> list[int]:
        path = self.marks / mark
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def alive(self, mark: str) -> list[int]:
        """Return the processes of the steps with this mark that still run. After the task's end they are
        orphans.
        """
        return [pid for pid in self.pids(mark) if is_alive(pid)]

    def age_s(self, name: str) -> float:
        """Return for how long a component has been running."""
        return time.monotonic() - self._began[name]

    def wait_for(
        self,
        look: Callable[[], T],
        what: str,
        explain: Callable[[], object] | None = None,
        *,
        holds: Callable[[T], object] = bool,
    ) -> T:
        """Wait like ``wait_until``, and watch the components meanwhile: none may end by itself."""

        def look_again() -> T:
            found = look()
            if not holds(found):
                self._look_after_processes()
            return found

        return wait_until(
            look_again, what, holds=holds, explain=explain, patience_s=self.patience_s, pause_s=0.2
        )

    def _look_after_processes(self) -> None:
        for name, process in list(self.processes.items()):
            if process.poll() is not None and self.revives:
                self.start(name)
            elif process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}:\n{self.output_of(name)}")
        if self.revives and time.monotonic() > self._looked + LOOK_S:
            self._looked = time.monotonic()
            if self._looked > self._began["scheduler"] + START_S and self._stands_still("scheduler"):
                self.kill("scheduler")
                self.start("scheduler")

    def _stands_still(self, name: str) -> bool:
        """Return whether Airflow calls a component unhealthy; ``False`` while the API server is away."""
        with contextlib.suppress(httpx.TransportError):
            answer = self.client.get("/api/v2/monitor/health")
            return answer.status_code == 200 and answer.json()[name]["status"] == "unhealthy"
        return False
