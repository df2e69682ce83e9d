"""Checkpoints: a step that is killed in the middle goes on where it was."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from airflow_stepop.stores.configured import open_store
from tests.support.paths import EXAMPLES
from tests.support.processes import kill, runners_below
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.timeout(900)]

EXAMPLE = EXAMPLES / "checkpoint.py"
OWN = Path(__file__).parent / "dags" / "resuming.py"


@contextmanager
def killed_once(home, look):
    """Kill the runner of the job below ``home`` as soon as ``look`` returns something. Its step dies with it.

    Yields a list. After the kill, the list has the value that ``look`` returned.
    """
    killed, is_over = [], threading.Event()

    def kill_now():
        found = look()
        pids = runners_below(home / "stepop" / "jobs") if found else []
        kill(pids)
        killed.extend([found] if pids else [])
        return killed or is_over.is_set()

    killer = threading.Thread(target=wait_until, args=(kill_now, "a moment to kill the step"))
    killer.start()
    try:
        yield killed
    finally:
        is_over.set()
        killer.join()


def three_epochs(home):
    """Return the epoch that the step has saved; ``None`` before the third one."""
    folder = home / "stepop" / "store" / "checkpoints"
    found = [json.loads(path.read_text())["epoch"] for path in folder.rglob("state.json")]
    return next((epoch for epoch in found if epoch >= 3), None)


def checkpoints(home):
    return [path for path in (home / "stepop" / "store" / "checkpoints").rglob("*") if path.is_file()]


def run_killed(airflow_process, look, place=None):
    """Run the example, and kill its step once. Return number of epochs, run, and the value of ``look``.

    On a busy machine the step may end before the kill. Then the example runs again with more epochs.
    """
    for epochs in (20, 80, 320):
        with killed_once(airflow_process.home, look) as killed:
            run = airflow_process.run(EXAMPLE, place=place, conf={"epochs": epochs, "pause_s": 0.4})
        if killed:
            break
    assert killed, run.log("train")[-3000:]
    return epochs, run, killed[0]


def test_the_example_goes_on_where_it_was_killed(airflow_process):
    epochs, run, killed_at = run_killed(airflow_process, lambda: three_epochs(airflow_process.home))
    run.assert_state("train")
    result = run.value("train")
    assert result["epoch"] == epochs
    assert 3 <= killed_at <= result["begun_at"] < epochs
    assert f"going on at epoch {result['begun_at']}" in run.log("train")
    assert checkpoints(airflow_process.home) == [], "it is gone after success"


def test_the_example_goes_on_with_a_bucket(airflow_process, s3_server):
    env = {f"AIRFLOW_CONN_{s3_server.conn_id.upper()}": s3_server.connection()}
    place = airflow_process.place("s3", s3_server.new_address(), env)
    store = open_store(place.store)
    epochs, run, _ = run_killed(airflow_process, lambda: list(store.objects("checkpoints")), place)
    run.assert_state("train")
    result = run.value("train")
    assert result["epoch"] == epochs
    assert 0 < result["begun_at"] < epochs
    assert f"going on at epoch {result['begun_at']}" in run.log("train")
    assert list(store.objects("checkpoints")) == [], "it is gone after success"


def test_who_finds_a_checkpoint(airflow_process):
    """The next try of the same task instance finds it, and nobody else does. A failure leaves it."""
    run = airflow_process.run(OWN)
    run.assert_state("again")
    assert run.value("again") == ["mine"]
    assert run.value("command")["out.json"] == 1
    for index in (0, 1):
        assert run.value(f"mapped[{index}]") == [str(index)]
    assert run.states["failing"] == "failed"
    assert [path.name for path in checkpoints(airflow_process.home)] == ["left"]
    assert "/failing" in str(checkpoints(airflow_process.home)[0])
