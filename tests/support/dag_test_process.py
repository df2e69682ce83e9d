"""A program that runs DAGs with ``dag.test()``. It has an Airflow home of its own.

The tests in ``airflow_in_process`` and of the CLI start it. The program reads requests from standard input,
one line of JSON each, and writes each answer as one line to another descriptor. It creates Airflow's
in-process API once, so that a DAG of a hundred tasks takes seconds.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import traceback
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any


def prepare() -> None:
    """Create the database and start the metrics as a worker does.

    The tables come from the models. Running all migrations would take much longer.
    """
    from airflow.sdk.configuration import conf
    from airflow.sdk.observability.metrics.stats_utils import get_stats_factory
    from airflow.sdk.observability.stats import initialize
    from airflow.utils import db

    db.initdb()
    initialize(factory=get_stats_factory(), export_legacy_names=conf.getboolean("metrics", "legacy_names_on"))


def describe(error: BaseException | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "type": type(error).__name__,
        "module": type(error).__module__,
        "mro": [base.__name__ for base in type(error).__mro__],
        "text": str(error),
        "cause": describe(error.__cause__),
        "traceback": "".join(traceback.format_exception(error)),
    }


class Tasks:
    """Remembers how each task ended and where its log lines are. ``dag.test()`` runs one task at a time."""

    def __init__(self) -> None:
        from airflow.sdk.definitions import dag as module

        self.found: dict[str, dict[str, Any]] = {}
        self._run = module._run_task
        module._run_task = self.run

    def run(self, *, ti: Any, task: Any, **kwargs: Any) -> Any:
        name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
        sys.stdout.flush()
        begin, result = os.fstat(1).st_size, None
        try:
            result = self._run(ti=ti, task=task, **kwargs)
        finally:
            sys.stdout.flush()
            error = describe(result.error) if result is not None else None
            end = os.fstat(1).st_size
            tries = [*self.found.get(name, {}).get("tries", []), {"begin": begin, "end": end, "error": error}]
            self.found[name] = {"tries": tries}
        return result


def run(request: Mapping[str, Any], tasks: Tasks) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import BundleDagBag

    tasks.found.clear()
    for name, value in request.get("env", {}).items():
        os.environ[name] = value
    folder = Path(request["file"]).parent
    bag = BundleDagBag(dag_folder=request["file"], bundle_path=folder, bundle_name="dags-folder")
    if bag.import_errors:
        return {"import_errors": {str(name): text for name, text in bag.import_errors.items()}}
    finished = bag.dags[request["dag_id"]].test(run_conf=request.get("conf") or {})
    states = {}
    for ti in finished.get_task_instances():
        states[ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"] = ti.state
    return {
        "run_id": finished.run_id,
        "state": finished.state,
        "states": states,
        "tasks": tasks.found,
    } | stored(finished.dag_id, finished.run_id)


def stored(dag_id: str, run_id: str) -> dict[str, Any]:
    """Return XComs and task states from the database itself. Airflow's own code does not decode them."""
    with closing(sqlite3.connect(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db")) as database:
        xcoms: dict[str, Any] = {}
        query = "select task_id, map_index, key, value from xcom where dag_id = ? and run_id = ?"
        for task_id, map_index, key, value in database.execute(query, (dag_id, run_id)):
            name = task_id if map_index < 0 else f"{task_id}[{map_index}]"
            xcoms.setdefault(name, {})[key] = json.loads(value) if isinstance(value, str) else value
        records: dict[str, str] = {}
        query = "select task_id, map_index, value from task_state_store where dag_id = ? and run_id = ?"
        for task_id, map_index, value in database.execute(query, (dag_id, run_id)):
            records[task_id if map_index < 0 else f"{task_id}[{map_index}]"] = value
    return {"xcoms": xcoms, "records": records}


def main(answers: int) -> None:
    prepare()
    tasks = Tasks()
    own = dict(os.environ)
    for line in sys.stdin:
        os.environ.clear()  # of what the last request has set
        os.environ.update(own)
        try:
            answer = run(json.loads(line), tasks)
        except BaseException:
            answer = {"crash": traceback.format_exc()}
        data = json.dumps(answer).encode() + b"\n"
        while data:
            data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main(int(sys.argv[1]))
