"""A value goes from a real Airflow to a step and comes back."""

import json
from datetime import datetime

PRINTED = ("hello from the deferred step", "hello from its child", "seconds later")


def test_a_value_goes_out_and_comes_back(airflow):
    run = airflow.trigger("first")
    assert airflow.wait_run("first", run) == dict.fromkeys(["load", "here", "deferred", "report"], "success")
    assert airflow.xcom("first", run, "here") == 6
    assert airflow.xcom("first", run, "deferred") == {"sum": 6}
    assert "REPORT 6 {'sum': 6}" in airflow.log("first", run, "report")

    for task, careful in (
        ("load", ("warning", "a.library", "careful")),
        ("here", ("warning", "step", "WARNING:a.library: careful")),
        ("deferred", ("warning", "step", "WARNING:a.library: careful")),
    ):
        lines = map(json.loads, airflow.log("first", run, task).splitlines())
        found = [(line.get("level"), line.get("logger"), line["event"]) for line in lines]
        assert found.count(careful) == 1, found

    lines = [line for line in map(json.loads, airflow.log("first", run, "deferred").splitlines())]
    printed = {line["event"]: line["timestamp"] for line in lines if line["event"] in PRINTED}
    assert list(printed) == list(PRINTED), "in the order in which the step printed them, a child's too"
    times = [datetime.fromisoformat(time) for time in printed.values()]
    assert 1 < (times[2] - times[1]).total_seconds() < 30, "with the times at which it printed them"
