"""What others see of a step: metrics, every phase; and listeners that fail do it no harm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.phases import FORKED, PHASES
from tests.support.statsd_server import StatsdServer

HERE = Path(__file__).parent
pytestmark = [pytest.mark.timeout(900)]

SECRET = "a-value-that-nobody-may-see"

LISTENER = """
import os
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin


class Breaks:
    @hookimpl
    def on_task_instance_running(self, previous_state, task_instance):
        self.note("running", task_instance)

    @hookimpl
    def on_task_instance_success(self, previous_state, task_instance):
        self.note("success", task_instance)

    @hookimpl
    def on_task_instance_failed(self, previous_state, task_instance, error):
        self.note("failed", task_instance)

    def note(self, state, task_instance):
        with open(os.path.join(os.environ["STEPOP_TEST_MARKS"], "heard"), "a") as file:
            file.write(f"{task_instance.task_id} {state}\\n")
        raise RuntimeError("a listener that fails")


class Plugin(AirflowPlugin):
    name = "breaks"
    listeners = [Breaks()]
"""


@pytest.fixture(scope="module")
def statsd():
    server = StatsdServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def airflow(start_airflow, statsd):
    airflow = start_airflow(**statsd.env)
    (airflow.home / "plugins").mkdir()
    (airflow.home / "plugins" / "breaks.py").write_text(LISTENER)
    return airflow


@pytest.fixture(scope="module")
def run(airflow):
    return airflow.run(HERE / "dags" / "observed.py")


# -- metrics


def test_every_metric_of_a_step(run, statsd):
    run.assert_state("works")
    tags = {"backend": "local", "dag_id": "observed", "task_id": "works"}
    found = {metric.name: metric for metric in statsd.metrics(**tags)}
    assert set(found) == {
        "stepop.submitted",
        "stepop.bytes_in",
        "stepop.bytes_out",
        "stepop.finished",
        "stepop.pending_time",
        "stepop.running_time",
        "stepop.collecting_time",
    }
    assert found["stepop.submitted"].value == 1
    assert 500 < found["stepop.bytes_in"].value < 100_000
    assert 100_000 < found["stepop.bytes_out"].value < 110_000
    assert found["stepop.finished"].tags == {**tags, "state": "success", "category": "none"}
    assert 500 <= found["stepop.running_time"].value < 60_000  # milliseconds
    assert {found[f"stepop.{name}_time"].kind for name in ("pending", "running", "collecting")} == {"ms"}


def test_a_failure_is_counted_by_its_category(run, statsd):
    run.assert_state("fails", "failed")
    assert statsd.total("stepop.finished", task_id="fails", state="failed", category="user_error") == 1
    assert statsd.total("stepop.finished", task_id="fails") == 1


def test_the_watcher_counts_its_calls(run, statsd):
    run.assert_state("waits_in_the_triggerer")
    assert statsd.total("stepop.watcher.status_calls", backend="local") >= 2
    assert statsd.total("stepop.watcher.status_errors", backend="local") == 0


def test_tags_are_few(run, statsd):
    """Nothing that is different for every run, and nothing of the user's values."""
    allowed = {"backend", "dag_id", "task_id", "state", "category"}
    assert {name for metric in statsd.metrics() for name in metric.tags} == allowed


# -- listeners


def test_a_listener_that_fails_changes_nothing(run):
    heard = (run.place.marks / "heard").read_text().splitlines()
    assert {"works running", "works success", "fails running", "fails failed"} <= set(heard)
    assert run.tries("works") == 1
    assert run.error("fails")["text"] == "its own error"


# -- phases

HOST = [
    "templates rendered: try 1 begins",
    "the record of generation 1 saved",
    "payload built: ",
    "uploaded: ",
    "submitted, and the handle saved",
    "the job is running",
    "the job is succeeded",
    "outcome read: ",
    "collected: success",
    "result handed over",
]
RUNNER = (*PHASES, FORKED, "step failed", "inputs", "command", "outputs")


def phases(run, task):
    """Return (seconds, text) of every phase, those of the host and those of the runner."""
    found = re.findall(r"stepop debug \+(\d+\.\d{3}) s: ([^\[\n]*)", run.log(task))
    split = {True: [], False: []}
    for seconds, text in found:
        split[text.startswith(RUNNER)].append((float(seconds), text.strip()))
    return split[False], split[True]


def assert_in_order(phases, words):
    texts = [text for _, text in phases]
    at = [next((n for n, text in enumerate(texts) if text.startswith(word)), None) for word in words]
    assert None not in at, (words, texts)
    assert at == sorted(at), texts
    times = [seconds for seconds, _ in phases]
    assert times == sorted(times)


def test_both_sides_say_every_phase(run):
    run.assert_state("talks")
    host, runner = phases(run, "talks")
    assert_in_order(host, [words for words in HOST if words != "the job is running"])
    assert_in_order(runner, [words for words in PHASES if words != "code extracted"])
    assert FORKED in [text for _, text in runner]


def test_a_deferred_step_says_where_it_waits(run):
    run.assert_state("talks_deferred")
    host, _ = phases(run, "talks_deferred")
    texts = [text for _, text in host]
    assert texts.index("deferring") < texts.index("the job is succeeded") < texts.index("resumed: finished")


def test_a_failure_and_a_command_say_their_own(run):
    _, runner = phases(run, "talks_and_fails")
    assert "step failed" in [text for _, text in runner]
    _, runner = phases(run, "talks_as_command")
    assert_in_order(runner, ["inputs written", "command ran", "outputs encoded", "outcome written"])


@pytest.mark.parametrize("task", ["talks", "talks_deferred", "talks_as_command"])
def test_no_value_is_in_them(run, task):
    assert SECRET not in "\n".join(re.findall(r"stepop debug .*", run.log(task)))


@pytest.mark.parametrize("task", ["works", "silent"])
def test_nobody_hears_them_unasked(run, task):
    run.assert_state(task)
    assert "stepop debug" not in run.log(task)


def test_the_configuration_asks_for_all(airflow):
    run = airflow.run(HERE / "dags" / "observed.py", env={"AIRFLOW__STEPOP__DEBUG": "True"})
    assert "stepop debug" in run.log("works")
    assert "stepop debug" not in run.log("silent")
