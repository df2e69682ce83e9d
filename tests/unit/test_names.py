"""A misspelt argument of a step is refused where it is written, with the name that was meant."""

from __future__ import annotations

import re

import pytest
from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator, StepConfigError
from airflow_stepop.decorators import remote_step

CASES = {
    "resource_setting": "resource_settings",
    "imagee": "image",
    "back_end": "backend",
    "enviroment": None,
    "retrys": "retries",
    "on_failure_calback": "on_failure_callback",
    "zzz": None,
}


def told(label, name, meant):
    return f"{label} has no argument {name!r}" + (f"; did you mean {meant!r}?" if meant else "")


@pytest.mark.parametrize(("name", "meant"), CASES.items())
def test_of_the_operator(name, meant):
    for make in (RemoteStepOperator, RemoteStepOperator.partial):
        with pytest.raises(StepConfigError, match=re.escape(told("RemoteStepOperator", name, meant))):
            make(task_id="x", command=["true"], **{name: 1})


@pytest.mark.parametrize(("name", "meant"), CASES.items())
def test_of_the_decorator(name, meant):
    """At the decorator, before any call: a mapped task would fail in each of its instances."""
    text = re.escape(told("@task.remote_step", name, meant))
    for decorate in (task.remote_step(**{name: 1}), remote_step(**{name: 1})):
        with pytest.raises(StepConfigError, match=text):
            decorate(lambda: 1)
    with pytest.raises(StepConfigError, match=text):
        task.remote_step(lambda: 1).override(**{name: 1})


def test_of_a_mapping():
    """Of expand() of an operator, too; that of a function takes the function's arguments."""
    with DAG("mapped", schedule=None):
        partial = RemoteStepOperator.partial(task_id="x", command=["true"])
        with pytest.raises(StepConfigError, match=re.escape(told("RemoteStepOperator", "imagee", "image"))):
            partial.expand(imagee=["a", "b"])
        partial.expand(image=["a", "b"])


def test_several_names():
    with pytest.raises(StepConfigError, match=r"no argument 'imagee'; did you mean 'image'?.*, 'zzz'"):
        RemoteStepOperator(task_id="x", command=["true"], imagee="a", zzz=1)


def test_a_subclass_has_arguments_of_its_own():
    class Trainer(RemoteStepOperator):
        def __init__(self, *, epochs, **kwargs):
            super().__init__(command=["train", str(epochs)], **kwargs)

    assert Trainer(task_id="x", epochs=3).command == ["train", "3"]
    with pytest.raises(StepConfigError, match=r"Trainer has no argument 'imagee'; did you mean 'image'?"):
        Trainer(task_id="x", epochs=3, imagee="a")
    with DAG("mapped", schedule=None):
        Trainer.partial(task_id="y").expand(epochs=[1, 2])
