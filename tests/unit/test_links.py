"""A task has a link where its backend may have a console, and no empty link anywhere."""

from __future__ import annotations

import pytest
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization

from airflow_stepop import RemoteStepOperator, registry
from airflow_stepop.hooks.base import StepHook
from tests.support.third_party import install_backend


def steps(**arguments) -> DAG:
    """A DAG with the four kinds of steps, with the same arguments."""
    with DAG("linked", schedule=None) as dag:

        @task.remote_step(**arguments)
        def function(x=1):
            return x

        function()
        function.override(task_id="mapped_function").expand(x=[1, 2])
        RemoteStepOperator(task_id="command", command=["true"], **arguments)
        RemoteStepOperator.partial(task_id="mapped_command", **arguments).expand(command=[["true"]])
    return dag


def stored_links(dag: DAG) -> list[list[str]]:
    """Return the names of each task's links, as Airflow's API server knows them."""
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    return [one.extra_links for one in stored.tasks]


@pytest.mark.parametrize("arguments", [{"backend": "local"}, {"backend": "local", "conn_id": "here"}])
def test_local_has_no_link(arguments) -> None:
    """Airflow's page shows a heading for every task that has one, also without a URL."""
    assert stored_links(steps(**arguments)) == [[], [], [], []]


@pytest.mark.parametrize(
    "arguments",
    [
        {"backend": "kubernetes"},
        {"conn_id": "cluster"},  # which may name any backend
        {"backend": "{{ var.value.backend }}"},
    ],
)
def test_a_console_that_may_be_there_has_a_link(arguments) -> None:
    assert stored_links(steps(**arguments)) == [["Job"]] * 4


def test_without_a_backend_the_configuration_decides(monkeypatch) -> None:
    plain, _, command, _ = stored_links(steps())
    assert (plain, command) == ([], [])
    monkeypatch.setenv("AIRFLOW__STEPOP__DEFAULT_BACKEND", "kubernetes")
    assert stored_links(steps()) == [["Job"]] * 4


def test_an_override_decides(monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW__STEPOP__BACKEND_OVERRIDE", "local")
    assert stored_links(steps(backend="kubernetes", conn_id="cluster")) == [[], [], [], []]


def test_a_backend_of_a_third_party(monkeypatch, tmp_path) -> None:
    """Its class says whether it has a console."""
    install_backend(monkeypatch, tmp_path / "dist", "lacking", "tests.support.third_party:LackingHook")
    assert stored_links(steps(backend="lacking")) == [[], [], [], []]


@pytest.mark.parametrize("name", registry._released())
def test_the_table_agrees_with_the_classes(name) -> None:
    pytest.importorskip(registry.BUILTINS[name].sdk or "sys")
    assert registry.has_console(name) == (registry.hook_class(name).link is not StepHook.link)


def test_an_instance_that_cannot_be_created_has_no_link() -> None:
    """Airflow then iterates over the links of the mapped operator itself, to store them."""
    with DAG("links", schedule=None):
        mapped = RemoteStepOperator.partial(task_id="mapped", backend="kubernetes").expand(command=["true"])
    assert list(mapped.operator_extra_links) == []
