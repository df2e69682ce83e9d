"""Many jobs are watched: two streams instead of questions, and never an old answer for a new one."""

from __future__ import annotations

import time
from functools import partial

import pytest

from airflow_stepop.hooks.kubernetes import KubernetesStepHook, events, informer, status
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME
from airflow_stepop.hooks.kubernetes.pods import condition_of, is_true
from airflow_stepop.job import JobState
from airflow_stepop.testing import make_step
from tests.support.cluster import NO_IMAGE
from tests.support.cluster_jobs import wait_lines
from tests.support.waiting import wait_until

AT_ONCE = {"termination_grace_period_seconds": 1}


@pytest.fixture
def asked(jobs, monkeypatch):
    """Paths and queries of every request of the hook."""
    from airflow_stepop.hooks.kubernetes.cluster import Cluster

    requests, send = [], Cluster.open

    def spy(self, method, path, *args, **kwargs):
        if self in jobs[0]._clusters.values():  # those of another test may be read on
            requests.append((method, path.rpartition("/")[2], kwargs.get("query") or {}))
        return send(self, method, path, *args, **kwargs)

    monkeypatch.setattr(Cluster, "open", spy)
    return requests


@pytest.fixture
def jobs(kubernetes_namespace):
    """Five jobs that go on until they are deleted, and the hook that has submitted them."""
    hook = KubernetesStepHook()
    steps = [make_step(["sleep", "600"], settings=AT_ONCE) for _ in range(5)]
    handles = [hook.submit(step.spec, step.payload) for step in steps]
    yield hook, handles
    for handle in handles:
        hook.delete(handle)


def states(hook, handles):
    return [hook.status(handles)[handle].state for handle in handles]


def all_run(hook, handles):
    wait_until(
        lambda: states(hook, handles), "all to run", holds=lambda seen: set(seen) == {JobState.RUNNING}
    )


def wait_state(hook, handles, handle, state):
    """Wait for the state of one job; it is asked for with all of them."""
    wait_until(
        lambda: hook.status(handles)[handle].state, f"{handle.id} to be {state}", holds=lambda s: s is state
    )


def wait_over(hook, handles, handle):
    """Wait for the end of one job; return every state that it was seen in."""
    found = []
    wait_until(
        lambda: found.append(hook.status(handles)[handle].state) or found[-1],
        f"{handle.id} to end",
        holds=lambda state: state.is_terminal,
        pause_s=0.05,
    )
    return set(found)


def hold_back(monkeypatch, *kinds):
    """Have nothing more arrive of the changes of these kinds."""
    apply = informer.Reflector._apply
    monkeypatch.setattr(
        informer.Reflector, "_apply", lambda self, event: self._kind in kinds or apply(self, event)
    )


def test_looks_cost_no_request_once_the_streams_flow(jobs, asked):
    hook, handles = jobs
    all_run(hook, handles)
    watched = [kind for _, kind, query in asked if "watch" in query]
    assert set(watched) == {"jobs", "pods"}
    assert len(watched) < len(handles)  # they may have been begun again
    asked.clear()
    for _ in range(50):
        hook.status(handles)
    assert [query for _, _, query in asked if "watch" not in query] == []


def test_what_happens_is_known_from_the_streams(jobs, asked):
    hook, handles = jobs
    all_run(hook, handles)
    asked.clear()
    hook.cancel(handles[0])
    wait_state(hook, handles, handles[0], JobState.CANCELLED)
    assert states(hook, handles)[1:] == [JobState.RUNNING] * 4
    name = handles[0].id
    found = [(method, kind) for method, kind, query in asked if "watch" not in query]
    assert found[:3] == [("GET", name), ("GET", "pods"), ("PATCH", name)]  # of the cancel
    assert set(found[3:]) <= {("GET", name), ("GET", "events")}  # when one stream is later than the other


def test_a_pod_that_is_gone_is_not_one_that_never_was(jobs, monkeypatch):
    """The stream of jobs may be later than that of pods: a step that ran for hours would be late to start."""
    hook, handles = jobs
    all_run(hook, handles)
    seen = hook._states(hook._cluster(handles[0]))._informer
    wait_until(
        lambda: all(one["status"].get("active") for one in seen.objects([handles[0].id])[0].values()),
        "the Job to count its pod",
    )
    hold_back(monkeypatch, "jobs")
    hook.cancel(handles[0])
    assert wait_over(hook, handles, handles[0]) == {JobState.RUNNING, JobState.CANCELLED}


def test_nor_is_one_that_took_its_time_to_end(jobs, admin, monkeypatch):
    """Its Job says for a while that it is being terminated, and then counts it."""
    hook, _ = jobs
    script = "trap '' TERM; echo ready; while true; do sleep 1; done"
    step = make_step(["sh", "-c", script], settings={"termination_grace_period_seconds": 5})
    handle = hook.submit(step.spec, step.payload)
    try:
        wait_lines(hook, handle)
        many = [*jobs[1], handle]
        all_run(hook, many)
        seen = hook._states(hook._cluster(handle))._informer
        (pod,) = seen.objects([handle.id])[1][handle.id]
        admin.delete_namespaced_pod(pod["metadata"]["name"], handle.detail["namespace"])
        wait_until(
            lambda: seen.objects([handle.id])[0][handle.id]["status"].get("terminating"),
            "the Job to say that its pod is being terminated",
        )
        hold_back(monkeypatch, "jobs")
        assert wait_over(hook, many, handle) == {JobState.RUNNING, JobState.FAILED}
    finally:
        hook.delete(handle)


def test_the_log_of_a_job_that_is_over_is_read_to_its_end(jobs, monkeypatch):
    """The stream of pods may be later than that of jobs: it still runs there."""
    hook, handles = jobs
    step = make_step(["sh", "-c", "echo one; sleep 5; printf 'no end'"])
    handle = hook.submit(step.spec, step.payload)
    try:
        all_run(hook, [*handles, handle])
        hold_back(monkeypatch, "pods")
        wait_state(hook, [*handles, handle], handle, JobState.SUCCEEDED)
        assert hook.status([*handles, handle])[handle].finished_at is not None
        assert [line.text for chunk in hook.chunks(handle) for line in chunk.lines] == ["one", "no end"]
    finally:
        hook.delete(handle)


def test_nothing_is_gone_before_it_was_asked_for_by_its_name(jobs, asked, monkeypatch):
    """A stream may be late: a job that was submitted a moment ago is not in it yet."""
    hook, handles = jobs
    all_run(hook, handles)
    hold_back(monkeypatch, "jobs", "pods")
    step = make_step(["sleep", "600"], settings=AT_ONCE)
    late = hook.submit(step.spec, step.payload)
    try:
        assert hook.status([*handles, late])[late].state is not JobState.GONE
    finally:
        hook.delete(late)


def test_a_job_that_was_deleted_is_gone(jobs):
    hook, handles = jobs
    all_run(hook, handles)
    hook.delete(handles[0])
    wait_state(hook, handles, handles[0], JobState.GONE)


def test_a_stream_that_breaks_is_begun_again_from_a_list(jobs, asked, monkeypatch):
    hook, handles = jobs
    all_run(hook, handles)
    # as the server says it when it has forgotten what changed: 410 Gone
    monkeypatch.setattr(informer.Reflector, "_apply", lambda self, event: False)
    hook.cancel(handles[0])
    wait_until(
        lambda: not hook._states(hook._cluster(handles[0]))._informer.is_watching, "the streams to break"
    )
    monkeypatch.undo()
    wait_state(hook, handles, handles[0], JobState.CANCELLED)


def test_what_changed_while_nobody_heard_of_it_is_told_after_the_list(jobs, monkeypatch):
    """The list may have been asked for the sake of one job, and the others are not asked for for a minute."""
    hook, handles = jobs
    all_run(hook, handles)
    wait_until(hook.changed_jobs, "no more changes", holds=lambda told: not told)
    monkeypatch.setattr(informer.Reflector, "_apply", lambda self, event: False)
    hook.cancel(handles[0])
    wait_until(hook.changed_jobs, "the streams to break", holds=lambda told: told is None)
    cluster = hook._cluster(handles[0])
    wait_until(
        lambda: status.status_of(*hook._states(cluster).exactly(handles[0].id)).state,
        "the end of the job",
        holds=lambda state: state.is_terminal,
    )
    monkeypatch.undo()
    hook.status(handles[1:])
    assert handles[0] in hook.changed_jobs()


def test_what_no_look_needs_is_no_change(jobs):
    """The Job controller writes of thousands of jobs at its own pace what nobody here reads."""
    hook, handles = jobs
    all_run(hook, handles)
    cluster = hook._cluster(handles[0])
    pods = partial(cluster.list, "pods", labelSelector=f"{JOB_NAME}={handles[0].id}")
    wait_until(lambda: all(is_true(condition_of(pod, "Ready")) for pod in pods()), "the pod to be ready")
    wait_until(lambda: time.sleep(1) or not hook.changed_jobs(), "a second without changes")
    cluster.patch("jobs", handles[0].id, {"metadata": {"annotations": {"someone": "else"}}})
    hook.cancel(handles[1])  # heard of after that, in the same stream
    told: set = set()
    wait_until(
        lambda: told.update(hook.changed_jobs() or ()) or told,
        "the end of the other job to be told",
        holds=lambda seen: handles[1] in seen,
    )
    assert handles[0] not in told


def test_what_the_warnings_may_tell_more_of_is_told_again(jobs, monkeypatch):
    hook, handles = jobs
    step = make_step(["true"], image=NO_IMAGE, settings=AT_ONCE)
    broken = hook.submit(step.spec, step.payload)
    monkeypatch.setattr(events, "PAUSE_S", 0.2)
    try:
        # one word or the other, until it is tried again
        wait_until(
            lambda: hook.status([*handles, broken])[broken].native,
            "the pull to fail",
            holds=lambda native: native in ("ErrImagePull", "ImagePullBackOff"),
        )
        hold_back(monkeypatch, "jobs", "pods")
        hook.changed_jobs()
        assert hook.status([*handles, broken])[broken].state is JobState.PENDING
        wait_until(
            lambda: hook.changed_jobs() or (),
            "the job to be told of again",
            holds=lambda told: broken in told,
        )
    finally:
        hook.delete(broken)


def test_an_api_that_cannot_be_reached_is_an_error_and_no_old_state(jobs, monkeypatch):
    from airflow_stepop.hooks.kubernetes.cluster import Cluster

    hook, handles = jobs
    all_run(hook, handles)
    monkeypatch.setattr(informer.Reflector, "is_watching", False)  # the streams are broken

    def refuse(*_, **__):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(Cluster, "open", refuse)
    with pytest.raises(ConnectionError):
        hook.status(handles)
    monkeypatch.undo()
    assert states(hook, handles) == [JobState.RUNNING] * 5


def test_nobody_reads_on_when_nobody_asks(jobs, monkeypatch):
    monkeypatch.setattr(informer, "IDLE_S", 2)
    monkeypatch.setattr(informer, "WATCH_S", 1)
    hook, handles = jobs
    all_run(hook, handles)
    seen = hook._states(hook._cluster(handles[0]))._informer
    wait_until(lambda: not seen.is_watching, "the streams to be closed")
    assert states(hook, handles) == [JobState.RUNNING] * 5
