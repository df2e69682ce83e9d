"""The link to a job's console page, built from the connection's template."""

from __future__ import annotations

import json
import os
import re
from types import SimpleNamespace

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.console import PLACEHOLDERS, filled
from airflow_stepop.job import JobHandle
from airflow_stepop.testing import make_step
from tests.support.paths import DOCS

PAGE = DOCS / "backends" / "kubernetes.md"
VALUES = {"namespace": "steps", "name": "s-1", "context": "a/b:c"}
HEADLAMP = "https://headlamp.example.com/c/main/jobs/{namespace}/{name}"


@pytest.mark.parametrize(
    ("template", "url"),
    [
        (HEADLAMP, "https://headlamp.example.com/c/main/jobs/steps/s-1"),
        ("https://c/k8s/ns/{namespace}/batch~v1~Job/{name}", "https://c/k8s/ns/steps/batch~v1~Job/s-1"),
        ("http://c:8080/{context}?job={name}&x=%20#top", "http://c:8080/a%2Fb%3Ac?job=s-1&x=%20#top"),
        ("https://c/?q={{name={name}}}", "https://c/?q={name=s-1}"),
        ("https://c/all", "https://c/all"),
    ],
)
def test_placeholders_are_filled_and_quoted(template, url):
    assert filled(template, VALUES) == url


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("https://c/{uid}", r"no placeholder \{uid\}; there are \{namespace\}, \{name\}, \{context\}"),
        ("https://c/{}", r"no placeholder \{\}"),
        ("https://c/{0}", r"no placeholder \{0\}"),
        ("https://c/{name.__class__}", r"no placeholder \{name.__class__\}"),
        ("https://c/{name!r}", r"no placeholder \{name!r\}"),
        ("https://c/{name:>9}", r"no placeholder \{name:>9\}"),
        ("https://c/{name", "cannot be read"),
        ("https://c/name}", "cannot be read"),
        ("javascript:alert('{name}')", "is no address"),
        ("headlamp/{name}", "is no address"),
        ("https:///{name}", "is no address"),
        ("https://[c/{name}", "is no address"),
        ("https://c/ {name}", "is no address"),
        ("https://c/\n{name}", "is no address"),
        (7, "7 is no address"),
    ],
)
def test_a_template_that_gives_no_address_is_refused(template, said):
    with pytest.raises(StepConfigError, match=said):
        filled(template, VALUES)


def test_a_placeholder_without_a_value_says_where_it_comes_from():
    with pytest.raises(
        StepConfigError, match=r"no value for \{context\}; write the value itself, or set kubernetes_context"
    ):
        filled("https://c/{context}", {**VALUES, "context": ""})


def test_the_examples_of_the_page_are_addresses():
    """The code accepts every example on the page and exactly the placeholders of the page's table."""
    section = PAGE.read_text().partition("### The console\n")[2].partition("\n## ")[0]
    templates = re.findall(r"`(https://[^`]+)`", section)
    assert len(templates) == 5
    for template in templates:
        assert filled(template, VALUES).startswith("https://")
    assert re.findall(r"^\| `\{(\w+)\}`", section, re.MULTILINE) == list(PLACEHOLDERS)


# -- the link of a connection


def handle(**detail):
    return JobHandle("kubernetes", "shown", "host/steps", "s-1", "s-1", {"namespace": "steps", **detail})


@pytest.fixture
def connect(monkeypatch):
    def make(**extra):
        text = json.dumps({"conn_type": "kubernetes", "extra": extra})
        monkeypatch.setenv("AIRFLOW_CONN_SHOWN", text)
        return KubernetesStepHook("shown")

    return make


def test_a_job_has_the_link_of_its_connection(connect):
    """The handle alone is enough, in any process; the cluster is not asked."""
    hook = connect(console_url=HEADLAMP)
    known = JobHandle.from_json(json.loads(json.dumps(handle().to_json())))
    assert hook.link(known) == "https://headlamp.example.com/c/main/jobs/steps/s-1"


def test_the_context_is_the_step_s_else_the_connection_s(connect):
    hook = connect(console_url="https://c/{context}/{name}", cluster_context="east")
    assert hook.link(handle()) == "https://c/east/s-1"
    assert hook.link(handle(context="west")) == "https://c/west/s-1"


def test_without_a_console_there_is_no_link(connect):
    assert connect().link(handle()) is None
    assert connect(console_url="").link(handle()) is None
    nowhere = JobHandle("kubernetes", None, "host/steps", "s-1", "s-1", {"namespace": "steps"})
    assert KubernetesStepHook().link(nowhere) is None


@pytest.mark.parametrize("extra", [{"console_url": "https://c/{uid}"}, {"console_url": ["https://c"]}])
def test_a_link_never_fails_a_job(connect, extra):
    """The job is running, perhaps for days. A mistake in the link is only logged."""
    hook, said = connect(**extra), []
    hook._log = SimpleNamespace(warning=lambda text, *values: said.append(text % values))
    assert hook.link(handle()) is None
    (line,) = said
    assert line.startswith("No link to kubernetes job s-1: connection 'shown', console_url in its extra: ")


def test_a_link_of_a_connection_that_is_gone(monkeypatch):
    monkeypatch.delenv("AIRFLOW_CONN_SHOWN", raising=False)
    assert KubernetesStepHook("shown").link(handle()) is None


def test_a_triggerer_needs_no_look_at_the_connection(connect, monkeypatch):
    connection = connect(console_url=HEADLAMP).connection
    monkeypatch.delenv("AIRFLOW_CONN_SHOWN")
    assert KubernetesStepHook("shown", connection).link(handle())


# -- on a cluster


@pytest.fixture
def shown(kubernetes_namespace, monkeypatch):
    """Give the usual connection a console."""

    def make(template):
        connection = json.loads(os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"])
        connection["extra"]["console_url"] = template
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
        return KubernetesStepHook()

    return make


@pytest.mark.parametrize("template", ["https://c/{uid}", "https://c/{context}", "ftp://c/{name}"])
def test_a_wrong_address_is_refused_before_there_is_a_job(shown, template):
    hook, step = shown(template), make_step(["true"])
    with pytest.raises(StepConfigError, match="'kubernetes_default', console_url in its extra: "):
        hook.submit(step.spec, step.payload)
    assert hook.lookup(step.spec) is None


def test_check_looks_at_the_address(shown, kubernetes_namespace):
    (wrong,) = (one for one in shown("https://c/{uid}").check() if one.subject == "console")
    assert not wrong.is_ok
    assert wrong.fix
    hook = shown("https://c/{context}/{namespace}/{name}")
    (right,) = (one for one in hook.check() if one.subject == "console")
    assert right.is_ok
    assert f"https://c/CONTEXT/{kubernetes_namespace}/JOB" in right.message


def test_a_submitted_and_a_found_job_have_the_link(shown, kubernetes_namespace):
    hook, step = shown(HEADLAMP), make_step(["true"])
    url = f"https://headlamp.example.com/c/main/jobs/{kubernetes_namespace}/{step.spec.name}"
    try:
        assert hook.link(hook.submit(step.spec, step.payload)) == url
        (found,) = hook.find({"nonce": step.spec.nonce})
        assert KubernetesStepHook().link(found.handle) == url
    finally:
        hook.delete(hook.lookup(step.spec))
