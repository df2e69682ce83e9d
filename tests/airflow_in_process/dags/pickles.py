"""Steps and tasks of a deployment whose processes load no pickles. Loading one leaves a mark."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

from airflow_stepop.results import StepResult
from airflow_stepop.runner.values import encode_value

MARKS = Path(os.environ.get("STEPOP_TEST_MARKS", "/nonexistent"))


class Marking:
    """Leaves a mark where it is loaded."""

    def __init__(self, name):
        self.name = name

    def __reduce__(self):
        return Path.touch, (MARKS / f"{self.name}.loaded",)


class Forest:
    """Only pickle can hold it."""

    size = 3


class OddError(Exception):
    """Its attribute is not data."""

    def __init__(self, text, thing):
        super().__init__(text, thing)
        self.thing = thing


def reference(name):
    entry = encode_value(Marking(name), lambda one, keep: pickle.dumps(one, 5)).to_entry(None)
    return StepResult.signed({**entry, "about": "Forest"}, "", "s-earlier", "earlier")


def look(context):
    """Read the same result in a callback."""
    found = context["ti"].xcom_pull(task_ids="earlier")
    (MARKS / "callback.txt").write_text(type(found).__name__)


with DAG("pickles", schedule=None):

    @task.remote_step
    def data():
        return {"auc": 0.9, "labels": {1, 2}}

    @task.remote_step
    def takes_and_uses_objects(forest, from_step=None):
        return forest.size

    @task.remote_step
    def model():
        return {"auc": 0.9, "model": Forest()}

    @task.remote_step(multiple_outputs=True)
    def several():
        return {"auc": 0.9, "model": Forest()}

    @task.remote_step
    def raises():
        raise OddError("no luck", Marking("raised"))

    @task
    def earlier(name):
        """Return a genuine reference from the time when pickles were allowed."""
        return reference(name)

    @task(on_failure_callback=look)
    def reads(value):
        return str(value)

    @task.remote_step
    def reads_in_a_step(value):
        return str(value)

    @task
    def reads_itself():
        return str(reference("itself").load())

    @task
    def reads_data(value):
        ti = get_current_context()["ti"]
        return [value["auc"], sorted(value["labels"]), ti.task_id]

    takes_and_uses_objects(Forest())
    model()
    several()
    raises()
    reads(earlier("task"))
    reads_in_a_step(earlier.override(task_id="earlier_for_a_step")("step"))
    reads_itself()
    reads_data(data())
