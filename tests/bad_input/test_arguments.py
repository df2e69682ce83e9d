"""Mistakes of a user are refused while the DAG file is read, with a message that says what to write."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from airflow.sdk import DAG, task

from airflow_stepop import ResourceSettings
from airflow_stepop.core.naming import job_name
from airflow_stepop.exceptions import BackendNotFoundError, StepConfigError
from airflow_stepop.operators import RemoteStepOperator

pytestmark = pytest.mark.corpus

MEMORY = {
    "16": "memory='16' has no unit; write '16GB' or '16GiB'",
    16: "memory=16 has no unit; write a string with one",
    "0MB": "memory='0MB' must be more than zero; leave memory out",
    "-1GB": "memory='-1GB' is not a size; write a positive number and a unit",
    "1.5.2GB": "memory='1.5.2GB' is not a size",
    "16 G": "'G' is 10**n in some tools and 2**n in others; write 'GB' (decimal) or 'GiB' (binary)",
    "16Gb": "'Gb' reads as bits; write 'GB' for bytes",
    "16 XB": "unknown unit 'XB'",
    "": "memory='' is not a size",
    True: "memory=True has no unit",
}
RESOURCES = {
    "gpu_count=-1": ({"gpu_count": -1}, "gpu_count=-1 must be at least 0"),
    "gpu_count=True": ({"gpu_count": True}, "gpu_count=True is not a whole number"),
    "gpu_count=1.5": ({"gpu_count": 1.5}, "gpu_count=1.5 is not a whole number"),
    "cpu_count=0": ({"cpu_count": 0}, "cpu_count=0 must be more than zero; leave cpu_count out"),
    "cpu_count=True": ({"cpu_count": True}, "cpu_count=True is not a number"),
    "cpu_count=nan": ({"cpu_count": float("nan")}, "cpu_count=nan must be more than zero"),
    "cpu_count='2'": ({"cpu_count": "2"}, "cpu_count='2' is not a number; write cpu_count=2"),
    "nodes=0": ({"nodes": 0}, "nodes=0 must be at least 1"),
    "gpu_type with none": ({"gpu_type": "A100", "gpu_count": 0}, "gpu_type='A100' needs gpu_count"),
    "cpus": ({"cpus": 2}, "ResourceSettings has no 'cpus'; did you mean cpu_count?"),
    "memroy": ({"memroy": "1GB"}, "ResourceSettings has no 'memroy'; did you mean memory?"),
    "xyz": ({"xyz": 1}, "Its fields: cpu_count, memory, gpu_count"),
}
ARGUMENTS = {
    "unknown backend": ({"backend": "kuberntes"}, "kubernetes"),
    "backend in capitals": ({"backend": "Local"}, "local"),
    "no backend at all": ({"backend": ""}, "backend"),
    "unknown setting": (
        {"backend": "local", "settings": {"pyhton": "/usr/bin/python3"}},
        "backend 'local' has no setting 'pyhton'; did you mean 'python'? "
        "(valid: grace_period_s, log_limit, python)",
    ),
    "setting of another kind": (
        {"backend": "local", "settings": {"grace_period_s": "soon"}},
        "settings of backend 'local': grace_period_s: Input should be a valid number",
    ),
    "settings as a list": (
        {"backend": "local", "settings": ["python"]},
        "must be a LocalSettings or a dict, not list",
    ),
    "keep": ({"keep": "sometimes"}, "keep='sometimes' is not one of never, failed, always"),
    "checkpoint": ({"checkpoint": "yes"}, "checkpoint must be True or False, and this is 'yes'"),
    "keep as bool": ({"keep": True}, "keep=True is not one of never, failed, always"),
    "timeout": ({"timeout": -1}, "timeout must be positive, and this is -1"),
    "no time": ({"timeout": 0}, "timeout must be positive, and this is 0"),
    "negative timedelta": ({"start_timeout": timedelta(hours=-1)}, "start_timeout must be positive"),
    "timeout as text": (
        {"timeout": "1h"},
        "timeout must be a number of seconds or a timedelta, and this is '1h'",
    ),
    "infinite timeout": ({"timeout": float("nan")}, "timeout must be positive, and this is nan"),
    "poll_interval": ({"poll_interval": 0}, "poll_interval must be positive"),
    "resources as a list": (
        {"resource_settings": [1]},
        "resource_settings=[1] is neither a ResourceSettings nor a dict",
    ),
    "resources as text": ({"resource_settings": "1GB"}, "resource_settings='1GB' is neither"),
    "gpu_type alone": (
        {"resource_settings": {"gpu_type": "A100"}},
        "gpu_type='A100' needs gpu_count; write gpu_count=1 beside it",
    ),
    "unknown resource": (
        {"resource_settings": {"gpus": 1}},
        "ResourceSettings has no 'gpus'; did you mean gpu_count?",
    ),
    "include as text": ({"include": "data"}, "include must be a list; write ['data']"),
    "env as a list": ({"env": ["A=1"]}, "env must be a dict of names and values, and this is ['A=1']"),
    "env with a bad name": ({"env": {"A=B": "1"}}, "env has the name 'A=B'"),
    "env with no name": ({"env": {"": "1"}}, "env has the name ''"),
}
COMMANDS = {
    "text": (
        {"command": "python train.py --lr 1"},
        "command must be a list; write ['python', 'train.py', '--lr', '1']",
    ),
    "nothing": ({}, "RemoteStepOperator needs command=[...]; for a function use @task.remote_step"),
    "empty": ({"command": []}, "command"),
    "outputs as text": (
        {"command": ["true"], "outputs": "m.json"},
        "outputs must be a list; write ['m.json']",
    ),
    "inputs as a list": (
        {"command": ["true"], "inputs": ["x"]},
        "inputs must be a dict of file names and values",
    ),
}


def ids(cases):
    return [re.sub(r"\W+", "_", str(case)) for case in cases]


def step(**arguments):
    with DAG("bad", schedule=None):

        @task.remote_step(**arguments)
        def train():
            return 1

        return train()


@pytest.mark.parametrize(("value", "text"), MEMORY.items(), ids=[repr(value) for value in MEMORY])
def test_memory(value, text):
    for call in (lambda: ResourceSettings(memory=value), lambda: step(resource_settings={"memory": value})):
        with pytest.raises(StepConfigError, match=re.escape(text)):
            call()


@pytest.mark.parametrize(("values", "text"), RESOURCES.values(), ids=RESOURCES)
def test_resources(values, text):
    for call in (lambda: ResourceSettings(**values), lambda: step(resource_settings=values)):
        with pytest.raises(StepConfigError, match=re.escape(text)):
            call()


@pytest.mark.parametrize(("values", "text"), ARGUMENTS.values(), ids=ids(ARGUMENTS))
def test_arguments(values, text):
    with pytest.raises(StepConfigError, match=re.escape(text)):
        step(**values)


@pytest.mark.parametrize(("values", "text"), ARGUMENTS.values(), ids=ids(ARGUMENTS))
def test_arguments_of_a_mapped_step_are_checked_at_the_latest_when_it_runs(values, text):
    """Airflow creates the operator of each instance only then. What a backend refuses is refused before."""

    def run():
        made = RemoteStepOperator.partial(task_id="train", **values).expand(command=[["true"]])
        made.unmap({"command": ["true"]})

    with DAG("bad", schedule=None), pytest.raises(StepConfigError, match=re.escape(text)):
        run()


@pytest.mark.parametrize(("values", "text"), COMMANDS.values(), ids=COMMANDS)
def test_commands(values, text):
    with DAG("bad", schedule=None), pytest.raises(StepConfigError, match=re.escape(text)):
        RemoteStepOperator(task_id="t", **values)


@pytest.mark.parametrize("name", ["inputs", "outputs", "workdir"])
def test_a_function_has_no_files(name):
    with pytest.raises(StepConfigError, match=f"{name}= belongs to a command; a function has arguments"):
        step(**{name: {"x": 1} if name == "inputs" else ["x"]})


def test_a_function_has_no_command():
    with pytest.raises(StepConfigError, match="a function takes no command"):
        step(command=["true"])


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(BackendNotFoundError, match=r"did you mean .kubernetes.*local") as caught:
        step(backend="kubernets")
    assert "sagemaker" in str(caught.value)


def test_templates_are_checked_when_they_are_rendered():
    made = step(
        backend="{{ var.value.backend }}",
        settings={"python": "{{ params.python }}"},
        resource_settings={"memory": "{{ params.memory }}", "cpu_count": "{{ params.cpus }}"},
    )
    assert made.operator.backend == "{{ var.value.backend }}"


@pytest.mark.parametrize("name", ["a" * 250, "x.y-z_0" * 30, "ü" * 250, "漢字" * 125, "Ünï-çødé.漢_" * 22])
def test_long_names_are_fine(name):
    """The longest names that Airflow takes, in any alphabet. Every service accepts the job's name."""
    with DAG(name, schedule=None):
        made = RemoteStepOperator(task_id=name, command=["true"])
    assert made.task_id == name
    assert re.fullmatch(r"s(-[a-z0-9]+)+", job_name(name, name, "nonce"))
    assert len(job_name(name, name, "nonce")) <= 52
