"""The first step of a host warns if its signing key is the host's own, and its job or data are elsewhere."""

from __future__ import annotations

import pytest

from airflow_stepop.cli.check import check_configuration
from airflow_stepop.core.signing_key import OWN_KEY, OWN_KEY_FIX
from airflow_stepop.inventory.targets import Target
from airflow_stepop.job import StepSpec
from airflow_stepop.lifecycle.own_key import warn_of_own_key
from tests.support.memory_backend import Log

FOLDER, BUCKET = "file:///store/results", "s3://steps/results"


@pytest.fixture(autouse=True)
def _new_host(monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.delenv("AIRFLOW__STEPOP__SIGNING_KEY", raising=False)
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "")


def warnings(hook, uri):
    log = Log()
    warn_of_own_key(hook, StepSpec("s", "n", {}, result_uri=uri), log)
    return log.lines


@pytest.mark.parametrize(
    ("is_host_bound", "uri", "text"),
    [
        (False, FOLDER, "while the backend 'memory' is for all hosts"),
        (False, "", "while the backend 'memory' is for all hosts"),
        (True, BUCKET, f"while the store of {BUCKET} is for all hosts"),
        (False, BUCKET, f"while the backend 'memory' and the store of {BUCKET} are for all hosts"),
    ],
)
def test_it_warns_once_per_host(hook, monkeypatch, is_host_bound, uri, text):
    monkeypatch.setattr(type(hook), "is_host_bound", is_host_bound)
    (line,) = warnings(hook, uri)
    assert text in line
    assert OWN_KEY_FIX in line
    assert line[1:].startswith(OWN_KEY[1:])
    assert warnings(hook, uri) == []


@pytest.mark.parametrize("uri", [FOLDER, ""])
def test_what_stays_on_this_host_needs_no_other_key(hook, monkeypatch, uri):
    monkeypatch.setattr(type(hook), "is_host_bound", True)
    assert warnings(hook, uri) == []


@pytest.mark.parametrize("name", ["AIRFLOW__STEPOP__SIGNING_KEY", "AIRFLOW__CORE__FERNET_KEY"])
def test_a_configured_key_is_that_of_all_hosts(hook, monkeypatch, name):
    monkeypatch.setenv(name, "the key of all hosts")
    assert warnings(hook, BUCKET) == []


def test_the_first_step_s_log_has_it(hook, new_try):
    logs = [Log(), Log()]
    for number, log in enumerate(logs):
        new_try(key=str(number), log=log).begin()
    found = [[line for line in log.lines if OWN_KEY_FIX in line] for log in logs]
    assert [len(lines) for lines in found] == [1, 0]


def test_the_check_says_the_same(monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "")
    (finding,) = [one for one in check_configuration([Target("kubernetes")]) if one.subject == "signing key"]
    assert (finding.is_ok, finding.message, finding.fix) == (False, OWN_KEY, OWN_KEY_FIX)
