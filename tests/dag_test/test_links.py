"""A step has a link where its backend has a console, and no empty one elsewhere."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization

from airflow_stepop import RemoteStepOperator
from airflow_stepop.registry import hook_class

STEP = {"task_id": "step", "command": ["true"]}


def linked(hook, handle):
    return f"http://console/{handle}"


def plain(**kwargs):
    return RemoteStepOperator(**STEP, **kwargs)


def mapped(**kwargs):
    return RemoteStepOperator.partial(**STEP, **kwargs).expand(env=[{"A": "1"}])


def decorated(**kwargs):
    return task.remote_step(**kwargs)(step)()


def decorated_and_mapped(**kwargs):
    return task.remote_step(**kwargs)(step).expand(number=[1])


def step(number=1):
    return number


def links(make, **kwargs):
    """Return what Airflow's API server knows of the links of a task."""
    with DAG("links") as dag:
        make(**kwargs)
    (found,) = DagSerialization.from_dict(DagSerialization.to_dict(dag)).tasks
    return list(found.operator_extra_link_dict)


KINDS = [plain, mapped, decorated, decorated_and_mapped]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("arguments", [{}, {"backend": "local"}, {"backend": "local", "conn_id": "mine"}])
def test_a_backend_without_a_console_has_no_link(make, arguments):
    assert links(make, **arguments) == []


@pytest.mark.parametrize("make", KINDS)
def test_a_backend_with_a_console_has_one(make, monkeypatch):
    monkeypatch.setattr(hook_class("local"), "link", linked)
    assert links(make) == links(make, backend="local") == ["Job"]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("arguments", [{"conn_id": "mine"}, {"backend": "{{ params.where }}"}])
def test_a_backend_that_is_not_known_yet_may_have_one(make, arguments):
    assert links(make, **arguments) == ["Job"]


def test_so_may_one_that_differs_between_mapped_steps():
    assert links(lambda: RemoteStepOperator.partial(**STEP).expand(conn_id=["one", "two"])) == ["Job"]
    assert links(
        lambda: RemoteStepOperator.partial(task_id="step").expand_kwargs([{"command": ["true"]}])
    ) == ["Job"]


def test_the_step_that_runs_has_none():
    """Airflow's task runner stores an XCom for each link of the operator itself."""
    assert list(plain().operator_extra_links) == []
