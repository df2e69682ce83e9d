"""What may be written in ``requirements=``, and what is said about the rest."""

from __future__ import annotations

import re

import pytest
from airflow.sdk import DAG

from airflow_stepop import RemoteStepOperator
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall, FunctionCall, Setup
from airflow_stepop.payload.requirements import read_requirements

BAD = {
    "one package": ("scikit-learn==1.5", "for one package write ['scikit-learn==1.5']"),
    "no list": (5, "requirements must be a list, and this is 5"),
    "a number": (["numpy", 5], "requirements must be a list of strings, but contains 5"),
    "a bad version": (["numpy=1"], "requirements contains 'numpy=1', which is not a requirement such as"),
    "a folder": (["./mine"], "Modules beside the DAG file are shipped anyway"),
    "an option": (["--index-url https://x"], "requirements contains the option '--index-url https://x'"),
    "nothing": ([""], "requirements contains ''"),
}


@pytest.mark.parametrize(("value", "text"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_at_once(value, text):
    with DAG("bad", schedule=None), pytest.raises(StepConfigError, match=re.escape(text)):
        RemoteStepOperator(task_id="t", command=["true"], requirements=value)


@pytest.mark.parametrize(
    "value", [None, [], "{{ params.x }}", ["{{ params.x }}", "a>=1,<2"], "requirements.txt"]
)
def test_what_is_right_or_known_later_is_taken(value):
    with DAG("good", schedule=None):
        assert RemoteStepOperator(task_id="t", command=["true"], requirements=value).requirements == value


def test_lines_are_sorted_and_said_once(tmp_path):
    assert read_requirements([" b ", "a[x]>=1 ; python_version>'3'", "b"], tmp_path) == [
        "a[x]>=1 ; python_version>'3'",
        "b",
    ]
    assert read_requirements(None, tmp_path) == []


def test_a_file_is_read_as_pip_reads_it(tmp_path):
    text = "\ufeff# a comment\r\n\nb==1 \\\r\n  --hash=sha256:00 \\\n  --hash=sha256:11  # why\na @ https://h/a.whl#sha1=2\n"
    (tmp_path / "requirements.txt").write_text(text)
    assert read_requirements("requirements.txt", tmp_path) == [
        "a @ https://h/a.whl#sha1=2",
        "b==1 --hash=sha256:00 --hash=sha256:11",
    ]


@pytest.mark.parametrize("line", ["-r other.txt", "-e .", "--extra-index-url https://x", "./a.whl"])
def test_a_file_may_have_requirements_only(tmp_path, line):
    (tmp_path / "requirements.txt").write_text(f"a\n{line}\n")
    with pytest.raises(StepConfigError, match=re.escape(line)):
        read_requirements("requirements.txt", tmp_path)


def test_the_runner_brings_what_the_step_needs():
    """A function needs nothing that runs commands, and hardly any step installs something."""
    command = CommandCall(argv=["true"], inputs={}, outputs=())
    function = FunctionCall(function=len, args=[()], kwargs={}, reference=("builtins", "len"))
    options = {"job": "s-job", "nonce": "n", "split": "no", "is_result_wanted": True}
    setup = Setup(requirements=["a"], secrets={"A": "b"})
    assert build_payload(command, setup=setup, **options).features == {"command", "requirements", "secrets"}
    assert build_payload(function, **options).features == {"function"}
