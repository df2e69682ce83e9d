"""A secret is in its step and nowhere else. The test searches all that Airflow and the provider store."""

from __future__ import annotations

import json
import secrets

from tests.support.processes import parent_of, those

TASKS = ("good", "bad", "killed")


def processes(name, values):
    """Return the processes that have one of the values in ``/proc/PID/<name>``."""

    def has_one(process):
        data = (process / name).read_bytes()
        return any(value.encode() in data for value in values)

    return set(those(has_one))


def test_a_secret_is_nowhere_but_in_the_step(airflow):
    values = token, key = secrets.token_hex(16), f"{secrets.token_hex(8)}\n{secrets.token_hex(8)}"
    pieces = [token, *key.split("\n")]
    connection = {"connection_id": "stepop_tests", "conn_type": "generic", "password": token}
    airflow.client.post("/api/v2/connections", json=connection).raise_for_status()
    variable = {"key": "stepop_tests_key", "value": key}
    airflow.client.post("/api/v2/variables", json=variable).raise_for_status()
    run = airflow.trigger("with_secrets")
    for name in ("good", "killed"):
        airflow.wait_for(lambda name=name: airflow.count(f"secrets_{name}.{run}") == 1, f"the step {name}")

    airflow.wait_state("with_secrets", run, "bad")
    assert processes("cmdline", pieces) == set(), "no command line has them"
    steps = {pid for name in ("good", "killed") for pid in airflow.pids(f"secrets_{name}.{run}")}
    found = processes("environ", pieces)
    assert steps <= found
    others = {pid for pid in found - steps if parent_of(pid) not in {*steps, 0}}
    assert others == set(), "the steps alone have them, and what they start"
    search(airflow, run, pieces)  # while the steps run

    airflow.patch("with_secrets", run, "killed", "failed")
    (airflow.marks / f"secrets_go.{run}").touch()
    states = airflow.wait_run("with_secrets", run)
    assert states == {"good": "success", "bad": "failed", "killed": "failed"}
    airflow.wait_for(lambda: not airflow.alive(f"secrets_killed.{run}"), "the killed step to be gone")
    assert "*** ***" in airflow.log("with_secrets", run, "good"), "it printed them"
    assert "*** *** are not accepted" in airflow.log("with_secrets", run, "bad").replace("\\n", " ")
    assert values[0] not in airflow.log("with_secrets", run, "killed")
    search(airflow, run, pieces)


def search(airflow, run, pieces):
    """Search what Airflow shows, and every file of Airflow and of the provider, for the values."""
    shown = []
    for name in TASKS:
        path = f"dags/with_secrets/dagRuns/{run}/taskInstances/{name}"
        shown += [
            airflow.get(path),
            airflow.get(f"{path}/xcomEntries"),
            airflow.log("with_secrets", run, name),
        ]
        assert "rendered_fields" in shown[-3]
    rows = database_rows(airflow.database)
    records = [row for row in rows["task_state_store"] if run in row]
    assert [name for name in TASKS if not any(name in row for row in records)] == []
    files = [path for path in airflow.home.rglob("*") if path.is_file()]
    assert {"airflow.cfg", "request.json", "log", "manifest.json"} <= {path.name for path in files}
    for piece in pieces:
        assert piece not in json.dumps(shown)
        assert [table for table, found in rows.items() if piece in str(found)] == []
        assert [str(path) for path in files if piece.encode() in contents(path)] == []


def database_rows(url):
    """Return every row of every table of Airflow's database, as text."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)  # keeps no connection open
    with engine.connect() as database:
        names = sqlalchemy.inspect(engine).get_table_names()
        found = {
            name: database.execute(sqlalchemy.text(f'select * from "{name}"')).fetchall() for name in names
        }
    return {
        name: [str([bytes(v) if isinstance(v, memoryview) else v for v in row]) for row in rows]
        for name, rows in found.items()
    }


def contents(path):
    try:
        return path.read_bytes()
    except FileNotFoundError:  # SQLite's journal comes and goes
        return b""
