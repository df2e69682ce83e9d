"""``make demo ARGS=--kill``: kill the worker of a step, and show that the step goes on.

Two processes play Airflow's workers, each with the code of ``dag.test()``. The first one submits the step and
waits for it; it is killed with SIGKILL. The second one runs the task's next try, as Airflow's scheduler would
order. This try finds the job in the task's record, attaches to it, and returns its result.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow_home import migrate, sqlite_url, start_api, tail, use_home

HOME = ".demo"
DAG_FILE = Path(__file__).parent / "demo_dags" / "survivor.py"
KILL_AT = re.compile(r"part 3 of (\d+), done by process (\d+)")
ATTACHED = re.compile(r"Attached to (local job \S+), which is (\w+)")
READY = re.compile("^ready$", re.MULTILINE)
PATIENCE_S = 300.0


def main() -> None:
    begin = time.monotonic()
    home = use_home(HOME)
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = sqlite_url(home)
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(DAG_FILE.parent)
    say("preparing Airflow's database")
    migrate(home)
    logs, report = [home / "worker-1.log", home / "worker-2.log"], home / "report.json"
    report.unlink(missing_ok=True)
    workers = [worker(log, turn, report) for log, turn in zip(logs, ("first", "second"), strict=True)]
    try:
        show(workers, logs, report)
    finally:
        for process in workers:
            process.kill()
    print(f"\nAll of it took {time.monotonic() - begin:.0f} s. Next: make airflow, or docs/crashes.md")


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def worker(log: Path, turn: str, report: Path) -> subprocess.Popen[bytes]:
    """Start a worker. It loads Airflow, and begins when a line comes from its standard input."""
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, __file__, turn, str(report)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def show(workers: list[subprocess.Popen[bytes]], logs: list[Path], report: Path) -> None:
    first, second = workers
    for process, log in zip(workers, logs, strict=True):  # so that the second one need not load it later
        found(READY, process, log)
    say(f"worker 1 (process {first.pid}) runs the task, and submits its step")
    go(first)
    at = found(KILL_AT, first, logs[0])
    say(f"the step (process {at[2]}) has done 3 of its {at[1]} parts: kill -9 {first.pid}")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    say(f"worker 1 is dead; worker 2 (process {second.pid}) runs the task's next try")
    go(second)
    attached = found(ATTACHED, second, logs[1])
    say(f"worker 2 attached to {attached[1]}, which is {attached[2]}")
    second.wait(PATIENCE_S)
    if second.returncode or not report.exists():
        sys.exit(f"the demo failed; the last lines of {logs[1]}:\n{tail(logs[1])}")
    row = json.loads(report.read_text())
    is_same = str(row["value"]["pid"]) == at[2]
    print(f"\n  try {row['try']} of the task: {row['state']}")
    print(f"  it returned {json.dumps(row['value'])}")
    if not is_same:
        sys.exit("the demo failed: the step was started again")
    print(f"\nThe worker was killed, and the step went on: process {at[2]} did all {at[1]} parts, once.")


def go(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.write(b"\n")
        process.stdin.flush()


def found(wanted: re.Pattern[str], process: subprocess.Popen[bytes], log: Path) -> re.Match[str]:
    """Return the first match in the log of a worker; wait for it while the worker runs."""
    return wait(lambda: wanted.search(log.read_text(errors="replace")), process, log)


def wait(
    look: Callable[[], re.Match[str] | None], process: subprocess.Popen[bytes], log: Path
) -> re.Match[str]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        is_over = process.poll() is not None
        if (match := look()) is not None:
            return match
        if is_over:
            break
        time.sleep(0.1)
    sys.exit(f"the demo failed; the last lines of {log}:\n{tail(log)}")


# -- in a worker


def load() -> Any:
    """Return the DAG when the other worker is ready, too."""
    from airflow.dag_processing.dagbag import DagBag

    sys.path.insert(0, str(DAG_FILE.parent))
    dag = DagBag(str(DAG_FILE)).dags["survivor"]
    start_api()
    print("\nready", flush=True)
    sys.stdin.readline()
    return dag


def run_second(report: Path) -> None:
    """Run the tasks of the last DAG run that have not ended, as ``dag.test()`` does."""
    from airflow.models.dagrun import DagRun
    from airflow.sdk.definitions.dag import _run_task
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.utils.session import create_session
    from sqlalchemy import select

    dag = load()
    with create_session() as session:
        newest = select(DagRun).where(DagRun.dag_id == dag.dag_id).order_by(DagRun.id.desc()).limit(1)
        dag_run = session.scalar(newest)
        dag_run.dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
        for ti in dag_run.get_task_instances(session=session):
            ti.prepare_db_for_next_try(session)  # what the scheduler does for a worker without a heartbeat
            ti.state, ti.try_number = "scheduled", ti.try_number + 1
            session.commit()
            _run_task(ti=ti, task=dag.task_dict[ti.task_id], run_triggerer=True)
        session.expire_all()
        (ti,) = dag_run.get_task_instances(session=session)
        value = ti.xcom_pull(task_ids=ti.task_id, session=session)
        report.write_text(json.dumps({"state": ti.state, "try": ti.try_number, "value": value}))
        state = ti.state
    sys.exit(0 if state == "success" else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["first"]:
        load().test()
    elif sys.argv[1:2] == ["second"]:
        run_second(Path(sys.argv[2]))
    else:
        main()
