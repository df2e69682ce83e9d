"""What is wrong with ``secrets=`` is said when the DAG file is read, and no message has a value in it."""

from __future__ import annotations

import json
import re

import jinja2
import pytest
from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator, registry
from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall, Setup
from airflow_stepop.payload.secrets import check_services, render_secrets

ARN = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hf-AbCdEf"
ROLE = "arn:aws:iam::111122223333:role/other"

BAD = {
    "a list": (["TOKEN=hunter2"], "secrets must be a dict of names and templates, and this is of type list"),
    "text": ("hunter2", "secrets must be a dict of names and templates, and this is of type str"),
    "no name": ({"": "{{ 1 }}"}, "secrets has the name ''"),
    "a bad name": ({"A=B": "{{ 1 }}"}, "secrets has the name 'A=B'"),
    "a number as name": ({1: "{{ 1 }}"}, "secrets has the name 1"),
    "our name": ({"STEPOP_JOB": "{{ 1 }}"}, "names with STEPOP_ belong to the runner"),
    "a number": ({"TOKEN": 5}, "the secret 'TOKEN' must be a template (a str), and this is of type int"),
    "None": ({"TOKEN": None}, "the secret 'TOKEN' must be a template (a str), and this is of type NoneType"),
    "bytes": ({"TOKEN": b"hunter2"}, "must be a template (a str), and this is of type bytes"),
    "a literal": ({"TOKEN": "hunter2"}, "the secret 'TOKEN' is written in the DAG file, which Airflow shows"),
    "another ARN": ({"TOKEN": "arn:aws:ssm:eu-west-1:1:parameter/x"}, "the secret 'TOKEN': 'arn:aws:ssm:"),
    "a name of env": ({"LANG": "{{ 1 }}"}, "'LANG' is in secrets and in env"),
}


def function(**arguments):
    @task.remote_step(env={"LANG": "C"}, **arguments)
    def train(number=1):
        return number

    return train


@pytest.mark.parametrize(("secrets", "text"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_at_once(secrets, text):
    """For every form of a step, also the mapped ones, whose arguments Airflow stores as they are."""
    command = {"task_id": "t", "command": ["true"], "env": {"LANG": "C"}}
    forms = [
        lambda: RemoteStepOperator(**command, secrets=secrets),
        lambda: RemoteStepOperator.partial(**command, secrets=secrets),
        lambda: function(secrets=secrets)(2),
        lambda: function().override(secrets=secrets)(2),
        lambda: function(secrets=secrets).expand(number=[1, 2]),
        lambda: function().override(secrets=secrets).expand(number=[1, 2]),
    ]
    for form in forms:
        with DAG("bad", schedule=None), pytest.raises(StepConfigError, match=re.escape(text)) as caught:
            form()
        assert "hunter2" not in str(caught.value)


def test_another_task_is_no_secret():
    with DAG("bad", schedule=None):
        token = task(lambda: "x", task_id="up")()
        with pytest.raises(StepConfigError, match="of type PlainXComArg"):
            RemoteStepOperator(task_id="t", command=["true"], secrets={"TOKEN": token})


def test_they_are_no_template_field():
    for operator in (RemoteStepOperator, function(secrets={"T": "{{ 1 }}"}).operator_class):
        assert "secrets" not in operator.template_fields


def rendered(**secrets):
    with DAG("d", schedule=None, user_defined_macros={"value": "a\nb" * 3, "nul": "a\0b"}):
        operator = RemoteStepOperator(task_id="t", command=["true"], secrets=secrets)
    environment = operator.dag.get_template_env(force_sandboxed=True)
    return render_secrets(secrets, environment, {"params": {"n": 5, "arn": ARN, "role": ROLE}})


def test_values_are_text():
    assert rendered(A="{{ params.n }}", B="x{{ value }}") == ({"A": "5", "B": "xa\nba\nba\nb"}, {})


@pytest.mark.parametrize("backend", ["local", "kubernetes", "sagemaker"])
def test_a_reference_may_be_written_in_the_dag_file(backend):
    pytest.importorskip(registry.BUILTINS[backend].sdk or "sys")
    assert registry.secret_services(backend) == registry.hook_class(backend).secret_services
    secrets = {"TOKEN": f"{ARN}:key::", "OTHER": "arn:aws:secretsmanager:{{ params.region }}:1:secret:x"}
    with DAG("good", schedule=None):
        RemoteStepOperator(task_id="t", command=["true"], backend=backend, secrets=secrets)
        function(backend=backend, secrets=secrets).expand(number=[1, 2])


def test_references_are_told_from_values():
    """A text that begins like a reference is one; a template may give one. Another ARN is a value."""
    found = rendered(A=ARN, B="{{ params.arn }}:key::", C=f"{ARN}-{{{{ params.n }}}}", D="{{ params.role }}")
    assert found == ({"D": ROLE}, {"A": ARN, "B": f"{ARN}:key::", "C": f"{ARN}-5"})


def test_a_reference_that_a_template_spoils():
    with pytest.raises(StepConfigError, match=r"the secret 'A': 'arn:aws:secretsmanager:5:.*; write arn:aws"):
        rendered(A="arn:aws:secretsmanager:{{ params.n }}:111122223333:key/x")


def test_references_are_for_backends_whose_jobs_can_read_them():
    check_services({"TOKEN": ARN}, "sagemaker", {"aws_secrets"})
    with pytest.raises(UnsupportedError, match="the secret 'TOKEN': jobs of backend 'other' cannot read"):
        check_services({"TOKEN": ARN}, "other", ())


def test_the_payload_has_references_and_the_zipapp_their_reader():
    call = CommandCall(argv=["true"], inputs={}, outputs=())
    setup = Setup(secrets={"A": "hunter2"}, secret_references={"B": ARN})
    payload = build_payload(call, setup=setup, job="s-job", nonce="n", split="no", is_result_wanted=True)
    manifest = json.loads(payload.manifest)
    assert (manifest["secrets"], manifest["secret_references"]) == (["A", "B"], {"B": ARN})
    assert payload.secrets == {"A": "hunter2"}
    assert {"secrets", "secret_references", "aws_secrets"} <= payload.features


def test_a_value_with_nul_is_refused():
    with pytest.raises(StepConfigError, match="the secret 'A' contains a NUL"):
        rendered(A="{{ nul }}")


def test_a_payload_does_not_show_them():
    call = CommandCall(argv=["true"], inputs={}, outputs=())
    options = {"job": "s-job", "nonce": "n", "split": "no", "is_result_wanted": True}
    setup = Setup(secrets={"TOKEN": "hunter2"})
    payload = build_payload(call, setup=setup, **options)
    assert payload.secrets == {"TOKEN": "hunter2"}
    assert b"hunter2" not in payload.manifest
    assert b"TOKEN" in payload.manifest
    assert "hunter2" not in repr(payload) + repr(setup)
    plain = build_payload(call, **options)
    assert payload.inline_bytes > plain.inline_bytes == len(plain.manifest)


@pytest.mark.parametrize("name", ["DATABASE_URL", "PIP_EXTRA_INDEX_URL", "HF_TOKEN", "X"])
def test_values_are_masked_whatever_the_name_is(name):
    """Airflow takes only some names for those of secrets."""
    from airflow.sdk._shared.secrets_masker import redact

    value = f"postgres://me:{name.lower()}@host"
    text = "{{ '" + value + "' }}"
    assert redact(f"<{value}>") == f"<{value}>"
    render_secrets({name: text}, jinja2.Environment(), {})
    assert redact(f"<{value}>") == "<***>"
