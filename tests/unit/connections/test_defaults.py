"""Defaults for steps in a connection's extra: which are read, and how mistakes are reported."""

from __future__ import annotations

import re

import pytest

from airflow_stepop.connections.defaults import ConnectionDefaults, read_defaults
from airflow_stepop.connections.extra import backend_of
from airflow_stepop.exceptions import StepConfigError
from tests.support.connections import FakeConnection, connection_with

ALL = {
    "backend": "kubernetes",
    "image": "registry.example.com/train:1",
    "store": "s3://aws@bucket/stepop",
    "settings": {"namespace": "ml", "node_selector": {"pool": "gpu"}},
    "resource_settings": {"cpu_count": 2, "memory": "16 gib", "gpu_type": "A100"},
    "env": {"LEVEL": "info", "WORKERS": 4},
    "timeout": 3600,
    "start_timeout": 600.5,
    "keep": "always",
    "deferrable": False,
    "endpoints": {"api": "http://localhost:1"},
}


def test_everything_that_a_connection_may_give():
    assert read_defaults(connection_with(ALL)) == ConnectionDefaults(
        conn_id="gpu",
        backend="kubernetes",
        image="registry.example.com/train:1",
        store="s3://aws@bucket/stepop",
        settings={"namespace": "ml", "node_selector": {"pool": "gpu"}},
        resource_settings={"cpu_count": 2.0, "memory": "16GiB", "gpu_type": "A100"},
        env={"LEVEL": "info", "WORKERS": "4"},
        timeout=3600.0,
        start_timeout=600.5,
        keep="always",
        deferrable=False,
        endpoints={"api": "http://localhost:1"},
    )


@pytest.mark.parametrize("extra", ["", "{}", '{"region_name": "x"}', '{"stepop": null}', '{"stepop": {}}'])
def test_a_connection_without_defaults(extra):
    found = read_defaults(FakeConnection(extra))
    assert found == ConnectionDefaults(conn_id="gpu")
    assert found.given == []


def test_null_counts_as_absent():
    assert read_defaults(connection_with(dict.fromkeys(ALL))) == ConnectionDefaults(conn_id="gpu")


def test_the_list_of_what_is_given_has_names_and_no_values():
    """Errors show the names. The values of ``env`` must never be shown."""
    found = read_defaults(connection_with({"image": "x", "env": {"A": "secret"}, "settings": {"b": 1}}))
    assert found.given == ["image", "settings.b", "env.A"]
    assert "secret" not in repr(found)


REFUSED = {
    "unknown key": ({"imagee": "x"}, "it has 'imagee', which is no default; did you mean 'image'? (valid: b"),
    "unknown and unlike": ({"xyz": 1}, "it has 'xyz', which is no default (valid: backend, image, store"),
    "a list": ([], "is [] and not an object"),
    "a text": ('{"image": "x"}', "only __extra__ can hold an object"),
    "template": (
        {"image": "x:{{ ds }}"},
        "extra: image is a template, and a connection is not rendered",
    ),
    "template inside": ({"settings": {"a": [{"b": "{% if x %}"}]}}, "settings.a[0].b is a template"),
    "image": ({"image": 1}, "image=1 must be a text that is not empty"),
    "no image": ({"image": " "}, "image=' ' must be a text that is not empty"),
    "backend": ({"backend": ["local"]}, "backend=['local'] must be a text"),
    "timeout as text": ({"timeout": "1h"}, "timeout='1h' must be a number of seconds above 0"),
    "no time": ({"timeout": 0}, "timeout=0 must be a number of seconds above 0"),
    "truth": ({"start_timeout": True}, "start_timeout=True must be a number of seconds"),
    "infinite": ({"timeout": float("inf")}, "timeout=inf must be a number of seconds"),
    "keep": ({"keep": "sometimes"}, "keep='sometimes' is not one of never, failed, always"),
    "keep as list": ({"keep": ["never"]}, "keep=['never'] is not one of"),
    "deferrable": ({"deferrable": "yes"}, "deferrable='yes' must be true or false"),
    "settings": ({"settings": "namespace"}, "settings='namespace' must be an object of names and values"),
    "resources": (
        {"resource_settings": {"gpus": 1}},
        "resource_settings: ResourceSettings has no 'gpus'; did you mean gpu_count?",
    ),
    "memory": ({"resource_settings": {"memory": "16"}}, "memory='16' has no unit; write '16GB'"),
    "env": ({"env": ["A=1"]}, "env=['A=1'] must be an object of names and values"),
    "env with a bad name": ({"env": {"A=B": "1"}}, "env has the name 'A=B'"),
    "our env": ({"env": {"STEPOP_JOB": "1"}}, "env has the name 'STEPOP_JOB', which is set for every step"),
    "env of another kind": ({"env": {"A": None}}, "env.A is of type NoneType; write a text"),
    "env of truth": ({"env": {"A": True}}, "env.A is of type bool; write a text"),
    "endpoint": ({"endpoints": {"api": 1}}, "endpoints.api=1 must be a text"),
}


@pytest.mark.parametrize(("stepop", "text"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_named(stepop, text):
    with pytest.raises(StepConfigError, match=re.escape(text)) as caught:
        read_defaults(connection_with(stepop))
    assert str(caught.value).startswith("the connection 'gpu': \"stepop\" in its extra")


def test_no_message_has_a_value_of_env():
    with pytest.raises(StepConfigError) as caught:
        read_defaults(connection_with({"env": {"TOKEN": ["hunter2"]}}))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(StepConfigError) as caught:
        read_defaults(connection_with({"env": {"TOKEN": "hunter2 {{ x }}"}}))
    assert "hunter2" not in str(caught.value)


# -- the backend


def test_the_older_key_for_the_backend_still_counts():
    assert read_defaults(FakeConnection('{"backend": "local"}')).backend == "local"
    assert read_defaults(connection_with({"backend": "local"}, backend="local")).backend == "local"


def test_two_backends_contradict_each_other():
    with pytest.raises(
        StepConfigError, match=r"backend='kubernetes' contradicts \"backend\": 'local' beside"
    ):
        read_defaults(connection_with({"backend": "kubernetes"}, backend="local"))


@pytest.mark.parametrize(
    ("extra", "conn_type", "backend"),
    [
        ('{"stepop": {"backend": "local"}}', "aws", "local"),
        ('{"backend": "local"}', "aws", "local"),
        ("{}", "aws", "sagemaker"),
        ('{"stepop": {"imagee": 1}}', "kubernetes", "kubernetes"),
        ('{"stepop": "nonsense"}', "kubernetes", "kubernetes"),
        ("{}", "http", None),
    ],
)
def test_where_a_connection_leads(extra, conn_type, backend):
    """The jobs of a connection are found whatever else is wrong with the connection."""
    assert backend_of(FakeConnection(extra, conn_type=conn_type)) == backend
