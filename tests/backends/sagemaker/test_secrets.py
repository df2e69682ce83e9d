"""The sealed files of a job: they lie in the bucket until the job has ended, and no longer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.runner.protocol import SEALED
from airflow_stepop.stores.base import Store

HELD = {"job": "*", "run": False, "hold": ["Starting"]}


def sealed(store: Store) -> list[str]:
    return [path for path in store.list("jobs") if path.endswith(SEALED)]


@pytest.fixture
def submitted(hook, service, step):
    """Return a function that submits a step with a secret; another ``token`` makes other bytes."""
    service.do("plan", **HELD)

    def submit(made=None):
        made = made or step()
        payload = replace(made.payload, secrets={"TOKEN": "hidden"})
        return hook.submit(made.spec, payload), made

    return submit


def test_they_go_and_the_rest_stays(hook, store, submitted):
    handle, _ = submitted()
    assert sealed(store)
    before = set(store.list("jobs")) - set(sealed(store))
    for _ in range(2):
        hook.delete_secrets(handle)
    assert set(store.list("jobs")) == before
    hook.delete(handle)
    assert not list(store.list("jobs"))


def test_those_of_a_job_that_was_looked_up(hook, store, submitted):
    """After a crash the handle comes from the service."""
    _, made = submitted()
    handle = hook.lookup(made.spec)
    hook.delete_secrets(handle)
    assert not sealed(store)


def test_those_of_every_submit(hook, store, step, submitted):
    """A try that died may have left other bytes of the same step."""
    _, made = submitted()
    other = replace(step(["true", "again"]).payload, secrets={"TOKEN": "hidden"})
    handle = hook.submit(made.spec, other)
    assert len(sealed(store)) == 2
    hook.delete_secrets(handle)
    assert not sealed(store)


def test_a_job_without_secrets_costs_no_request(hook, service, submit):
    """Its store is not even opened."""
    service.do("plan", **HELD)
    handle = submit()
    elsewhere = {**handle.detail, "inputs": "s3://no-such-bucket/jobs/x"}
    hook.delete_secrets(replace(handle, detail=elsewhere))


def test_an_outcome_is_only_read(hook, service, store, submitted):
    """Each question for a late outcome would otherwise list the folder again."""
    handle, _ = submitted()
    hook.cancel(handle)
    service.wait_for(handle.name, "Stopped")
    with pytest.raises(Exception, match="left no outcome"):
        hook.outcome(handle)
    assert sealed(store)


def test_those_of_a_refused_submit(hook, service, store, submitted, step):
    """There is no job, and the task fails for good."""
    service.do(
        "fault", kind="throttle", code="AccessDeniedException", message="no", operation="Create*", count=1
    )
    with pytest.raises(StepConfigError):
        submitted(step())
    assert not sealed(store)
    assert list(store.list("jobs")), "the rest stays for gc"
