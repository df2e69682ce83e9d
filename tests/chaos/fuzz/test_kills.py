"""Processes around a step die at random, and the step still comes to its result.

``make fuzz`` runs 200 seeds, ``make test`` a few. To run a failed seed alone, set ``STEPOP_FUZZ_FIRST=<seed>
STEPOP_FUZZ=1``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

DRIVER = Path(__file__).parent / "kills.py"
COUNT = int(os.environ.get("STEPOP_FUZZ", "12"))
MANY = 50  # so many seeds meet every kind of event, whatever the timing
FIRST = int(os.environ.get("STEPOP_FUZZ_FIRST", "1"))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The events and counts of each seed."""
    folder = tmp_path_factory.mktemp("fuzz")
    seeds = [str(seed) for seed in range(FIRST, FIRST + COUNT)]
    with (folder / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, str(DRIVER), str(folder), *seeds],
            env={**os.environ, "AIRFLOW_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )
    assert done.returncode == 0, (folder / "log").read_text()[-4000:]
    return [json.loads((folder / f"{seed}.json").read_text()) for seed in seeds]


@pytest.mark.timeout(600 + 20 * COUNT)
def test_no_result_is_lost(worlds):
    assert [w for w in worlds if w["value"] != {"result.json": [w["seed"]]}] == []


def test_never_two_jobs_at_once_and_none_too_many(worlds):
    """One job, and one more for each job that was killed or cleared away."""
    assert [w for w in worlds if w["overlaps"]] == []
    assert [w for w in worlds if not 1 <= w["started"] <= 1 + w["deaths_of_jobs"] + w["clears"]] == []


def test_nothing_stays_behind(worlds):
    """No process is left, and with ``keep="never"`` no folder of a job."""
    assert [w for w in worlds if w["orphans"] or w["folders"]] == []


def test_no_kill_is_reported_as_the_steps_own_error(worlds):
    """Such an error would have failed the task without another try."""
    assert [w for w in worlds if w["final_errors"]] == []


def test_something_was_killed(worlds):
    """Otherwise the other tests prove nothing."""
    events = [event for world in worlds for event in world["events"]]
    for how in ("moment", "operation"):
        assert any(event.endswith(f": {how}") for event in events)
    if COUNT >= MANY:
        whos = ("worker", "triggerer", "resumed worker")
        assert {f"{who}: {how}" for who in whos for how in ("moment", "operation")} <= set(events)
        assert "cleared" in events
