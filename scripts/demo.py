"""``make demo``: run ``dags_examples/quickstart.py`` in Airflow on this host, and print where each task ran.

Airflow writes to the folder ``.demo`` only. The output of Airflow and of the step goes to ``.demo/run.log``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import demo_kill
from airflow_home import EXAMPLES, migrate, sqlite_url, start_api, tail, use_home

from airflow_stepop.core.units import shown_size

HOME = ".demo"
DAG_FILE = EXAMPLES / "quickstart.py"


def main() -> None:
    begin = time.monotonic()
    home = use_home(HOME)
    os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = sqlite_url(home)
    say("preparing Airflow's database")
    migrate(home)
    say(f"running {DAG_FILE.relative_to(Path.cwd())} (log: {HOME}/run.log)")
    rows = run(home)
    print()
    print_report(rows)
    print("\nWhat is special: a step outlives its worker. To see one killed: make demo ARGS=--kill")
    print(f"All of it took {time.monotonic() - begin:.0f} s. Next: make airflow, or docs/quickstart.md")


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def run(home: Path) -> list[dict[str, Any]]:
    """Run the DAG in a child process and return one row per task."""
    log, rows = home / "run.log", home / "report.json"
    rows.unlink(missing_ok=True)
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, __file__, "--run", str(rows)], stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode or not rows.exists():
        sys.exit(f"the demo failed; the last lines of {log}:\n{tail(log)}")
    found: list[dict[str, Any]] = json.loads(rows.read_text())
    return found


def run_here(rows: Path) -> None:
    """Run the DAG in this process, and write one row per task to the file ``rows`` as JSON."""
    sys.path.insert(0, str(DAG_FILE.parent))
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(DAG_FILE))
    dag = bag.dags["quickstart"]
    start_api()
    dag_run = dag.test()
    found = [describe(ti) for ti in sorted(dag_run.get_task_instances(), key=lambda ti: ti.start_date)]
    rows.write_text(json.dumps(found))
    sys.exit(0 if dag_run.state == "success" else 1)


def describe(ti: Any) -> dict[str, Any]:
    """Return the row of a finished task: where it ran, how long, its peak memory and its value."""
    value = ti.xcom_pull(task_ids=ti.task_id) or {}
    ran, record = value.get("ran", {}), step_record(ti)
    return {
        "task": ti.task_id,
        "where": f"{record['backend']} step {record['name']}" if record else "Airflow",
        "host": ran.get("host"),
        "pid": ran.get("pid"),
        "seconds": ti.duration,
        "peak_memory_bytes": ran.get("peak_memory_bytes"),
        "value": {key: item for key, item in value.items() if key != "ran"},
    }


def step_record(ti: Any) -> dict[str, Any]:
    """Return the record of a remote step as Airflow stores it; empty for an ordinary task."""
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    where = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": ti.task_id, "map_index": ti.map_index}
    with create_session() as session:
        row = session.scalar(select(TaskStateStoreModel).filter_by(**where, key="stepop"))
        value = row.value if row else None
    found: dict[str, Any] = (json.loads(value) if isinstance(value, str) else value) or {}
    return found


def print_report(rows: list[dict[str, Any]]) -> None:
    print(f"  {'task':11} {'host':12} {'process':>7} {'seconds':>8} {'memory':>8}  ran in")
    for row in rows:
        memory = row["peak_memory_bytes"]
        shown = shown_size(memory) if memory else "-"
        print(
            f"  {row['task']:11} {(row['host'] or '-')[:12]:12} {row['pid'] or '-':>7} "
            f"{row['seconds']:8.1f} {shown:>8}  {row['where']}"
        )
    print("\nWhat they returned:\n")
    for row in rows:
        text = json.dumps(row["value"])
        print(f"  {row['task']:11} {text if len(text) <= 90 else f'{text[:86]} ...'}")


if __name__ == "__main__":
    os.chdir(DAG_FILE.parents[1])
    if sys.argv[1:2] == ["--run"]:
        run_here(Path(sys.argv[2]))
    elif sys.argv[1:] == ["--kill"]:
        demo_kill.main()
    elif sys.argv[1:]:
        sys.exit(f"make demo has the option ARGS=--kill, and none called {' '.join(sys.argv[1:])}")
    else:
        main()
