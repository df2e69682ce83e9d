"""Metrics of a real worker and a real triggerer, the trace of a real run, and a step's resource usage."""

from __future__ import annotations

import re

import pytest


@pytest.fixture(scope="module")
def run(airflow):
    run = airflow.trigger("observed")
    states = airflow.wait_run("observed", run)
    assert states == dict.fromkeys(["waits_in_the_triggerer", "waits_in_the_worker"], "success")
    return run


def test_the_trace_of_the_run_goes_on_in_the_step(airflow, run):
    found = airflow.xcom("observed", run, "waits_in_the_triggerer")
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", found)
    assert airflow.xcom("observed", run, "waits_in_the_worker") == "mine"


@pytest.mark.parametrize("task", ["waits_in_the_triggerer", "waits_in_the_worker"])
def test_the_worker_counts(run, statsd, task):
    tags = {"dag_id": "observed", "task_id": task, "backend": "local"}
    assert statsd.total("stepop.submitted", **tags) == 1
    assert statsd.total("stepop.finished", **tags, state="success", category="none") == 1
    assert statsd.total("stepop.bytes_out", **tags) > 0


def test_the_triggerer_counts(run, statsd):
    assert statsd.total("stepop.watcher.status_calls", backend="local") > 0


@pytest.mark.parametrize("task", ["waits_in_the_triggerer", "waits_in_the_worker"])
def test_the_usage_of_a_step_is_in_the_log(airflow, run, task):
    assert re.search(r"used [\d.]+ s wall, [\d.]+ s CPU, peak [\d.]+ MiB", airflow.log("observed", run, task))
