"""The example of checkpoints: killed in the middle, it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from airflow_stepop.store import open_store
from tests.support.paths import EXAMPLES

pytestmark = [pytest.mark.xdist_group("calls"), pytest.mark.timeout(300)]

EXAMPLE = EXAMPLES / "checkpoint.py"
OWN = Path(__file__).parent / "dags" / "resuming.py"


def runners(home):
    """Return the runners of the jobs below ``home``; killing one kills its step, and the job has failed."""
    own = str(home / "stepop" / "jobs")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words, folder = path.read_bytes().split(b"\0"), os.readlink(path.parent / "cwd")
        except OSError:
            continue
        if b"run" in words and b"--digest" in words and folder.startswith(own):
            yield int(path.parent.name)


def kill_in_the_middle(home, killed):
    """Kill the step when it has saved three epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not killed:
        for path in (home / "stepop" / "store" / "checkpoints").rglob("state.json"):
            epoch = json.loads(path.read_text())["epoch"]
            pids = list(runners(home))
            if epoch >= 3 and pids:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                killed.append(epoch)
        time.sleep(0.02)


def kill_when_saved(home, store, killed):
    """Kill the step when a snapshot of it is in the bucket."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not killed:
        saved = [found.path for found in store.objects("checkpoints")]
        pids = list(runners(home)) if saved else []
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        killed += pids
        time.sleep(0.1)


def checkpoints(home):
    return [path for path in (home / "stepop" / "store" / "checkpoints").rglob("*") if path.is_file()]


def test_the_example_goes_on_where_it_was_killed(airflow_process):
    killed: list[int] = []
    killer = threading.Thread(target=kill_in_the_middle, args=(airflow_process.home, killed))
    killer.start()
    run = airflow_process.run(EXAMPLE, conf={"epochs": 12, "pause_s": 0.4})
    killer.join()
    assert killed, run.log("train")[-3000:]
    run.assert_state("train")
    result = run.value("train")
    assert result["epoch"] == 12
    assert 3 <= killed[0] <= result["begun_at"] < 12
    assert f"going on at epoch {result['begun_at']}" in run.log("train")
    assert checkpoints(airflow_process.home) == [], "it is gone after success"


def test_the_example_goes_on_with_a_bucket(airflow_process, s3_server):
    env = {f"AIRFLOW_CONN_{s3_server.conn_id.upper()}": s3_server.connection()}
    place = airflow_process.place("s3", s3_server.new_address(), env)
    store = open_store(place.store)
    killed: list[int] = []
    killer = threading.Thread(target=kill_when_saved, args=(airflow_process.home, store, killed))
    killer.start()
    run = airflow_process.run(EXAMPLE, place=place, conf={"epochs": 25, "pause_s": 0.4})
    killer.join()
    assert killed, run.log("train")[-3000:]
    run.assert_state("train")
    result = run.value("train")
    assert result["epoch"] == 25
    assert 0 < result["begun_at"] < 25
    assert f"going on at epoch {result['begun_at']}" in run.log("train")
    assert list(store.objects("checkpoints")) == [], "it is gone after success"


def test_who_finds_a_checkpoint(airflow_process):
    """The next try of the same task instance, and nobody else; a failure leaves it."""
    run = airflow_process.run(OWN)
    run.assert_state("again")
    assert run.value("again") == ["mine"]
    assert run.value("command")["out.json"] == 1
    for index in (0, 1):
        assert run.value(f"mapped[{index}]") == [str(index)]
    assert run.states["failing"] == "failed"
    assert [path.name for path in checkpoints(airflow_process.home)] == ["left"]
    assert "/failing" in str(checkpoints(airflow_process.home)[0])
