"""Many jobs are watched through two streams (Jobs, pods), and an old state never replaces a newer one."""

from __future__ import annotations

import time
from functools import partial

import pytest

from airflow_stepop.hooks.kubernetes import KubernetesStepHook, events, informer, status
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME
from airflow_stepop.hooks.kubernetes.pods import condition_of, is_true
from airflow_stepop.job import JobState
from airflow_stepop.testing import make_step
from tests.support.cluster_jobs import wait_lines
from tests.support.waiting import wait_until

AT_ONCE = {"termination_grace_period_seconds": 1}


@pytest.fixture
def asked(jobs, monkeypatch):
    """Return the list of the hook's requests: method, last part of the path, query."""
    from airflow_stepop.hooks.kubernetes.cluster import Cluster

    requests, send = [], Cluster.open

    def spy(self, method, path, *args, **kwargs):
        if self in jobs[0]._clusters.values():  # watches of another test may still run
            requests.append((method, path.rpartition("/")[2], kwargs.get("query") or {}))
        return send(self, method, path, *args, **kwargs)

    monkeypatch.setattr(Cluster, "open", spy)
    return requests


@pytest.fixture
def jobs(kubernetes_namespace):
    """Submit five jobs that run until they are deleted; yield the hook and their handles."""
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
    """Wait until one job has the state; each status call asks for all jobs."""
    wait_until(
        lambda: hook.status(handles)[handle].state, f"{handle.id} to be {state}", holds=lambda s: s is state
    )


def wait_over(hook, handles, handle):
    """Wait until one job ends; return every state that was seen."""
    found = []
    wait_until(
        lambda: found.append(hook.status(handles)[handle].state) or found[-1],
        f"{handle.id} to end",
        holds=lambda state: state.is_terminal,
        pause_s=0.05,
    )
    return set(found)


def hold_back(monkeypatch, *kinds):
    """Drop all further changes of these kinds, as a stream that is late would."""
    apply = informer.Reflector._apply
    monkeypatch.setattr(
        informer.Reflector, "_apply", lambda self, event: self._kind in kinds or apply(self, event)
    )


def test_looks_cost_no_request_once_the_streams_flow(jobs, asked):
    hook, handles = jobs
    all_run(hook, handles)
    watched = [kind for _, kind, query in asked if "watch" in query]
    assert set(watched) == {"jobs", "pods"}
    assert len(watched) < len(handles)  # a watch may have been started again
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
    assert found[:3] == [("GET", name), ("GET", "pods"), ("PATCH", name)]  # requests of the cancel
    assert set(found[3:]) <= {("GET", name), ("GET", "events")}  # if one stream lags behind the other


def test_a_pod_that_is_gone_did_exist(jobs, monkeypatch):
    """The Jobs stream may lag behind the pods stream. The step must not then be reported as late to start."""
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


def test_a_pod_that_took_long_to_terminate_did_exist(jobs, admin, monkeypatch):
    """The Job counts its pod as terminating for a while, and only then as failed."""
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
    """The pods stream may lag behind the Jobs stream: there the pod still runs."""
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


def test_no_job_is_gone_before_it_was_asked_for_by_name(jobs, asked, monkeypatch):
    """A stream may lag: a job that was submitted a moment ago is not in it yet."""
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
    # as if the server had answered 410 Gone: it no longer has the changes since the last one seen
    monkeypatch.setattr(informer.Reflector, "_apply", lambda self, event: False)
    hook.cancel(handles[0])
    wait_until(
        lambda: not hook._states(hook._cluster(handles[0]))._informer.is_watching, "the streams to break"
    )
    monkeypatch.undo()
    wait_state(hook, handles, handles[0], JobState.CANCELLED)


def test_changes_missed_by_a_broken_stream_are_told_after_the_list(jobs, monkeypatch):
    """The list may be fetched for one job, while the watcher asks for the others only once a minute."""
    hook, handles = jobs
    all_run(hook, handles)
    wait_until(hook.changed_jobs, "no more changes", holds=lambda told: not told)
    monkeypatch.setattr(informer.Reflector, "_apply", lambda self, event: False)
    hook.cancel(handles[0])
    wait_until(hook.changed_jobs, "the streams to break", holds=lambda told: told is None)
    cluster = hook._cluster(handles[0])
    wait_until(
        lambda: status.status_of(*hook._states(cluster).exactly(handles[0])).state,
        "the end of the job",
        holds=lambda state: state.is_terminal,
    )
    monkeypatch.undo()
    hook.status(handles[1:])
    assert handles[0] in hook.changed_jobs()


def test_a_change_that_no_status_depends_on_is_not_told(jobs):
    """The Job controller updates thousands of jobs at its own pace, often in fields that nobody reads."""
    hook, handles = jobs
    all_run(hook, handles)
    cluster = hook._cluster(handles[0])
    pods = partial(cluster.list, "pods", labelSelector=f"{JOB_NAME}={handles[0].id}")
    wait_until(lambda: all(is_true(condition_of(pod, "Ready")) for pod in pods()), "the pod to be ready")
    wait_until(lambda: time.sleep(1) or not hook.changed_jobs(), "a second without changes")
    cluster.patch("jobs", handles[0].id, {"metadata": {"annotations": {"someone": "else"}}})
    hook.cancel(handles[1])  # this change arrives later in the same stream
    told: set = set()
    wait_until(
        lambda: told.update(hook.changed_jobs() or ()) or told,
        "the end of the other job to be told",
        holds=lambda seen: handles[1] in seen,
    )
    assert handles[0] not in told


def test_a_job_whose_warnings_may_say_more_is_told_again(jobs, monkeypatch):
    """The pod waits for a volume that no driver will ever mount, so the job stays as it is."""
    hook, handles = jobs
    volume = {"name": "data", "csi": {"driver": "no-such-driver.example.com"}}
    mount = {"name": "data", "mount_path": "/data"}
    step = make_step(["true"], settings={**AT_ONCE, "volumes": [volume], "volume_mounts": [mount]})
    blocked = hook.submit(step.spec, step.payload)
    monkeypatch.setattr(events, "PAUSE_S", 0.2)
    try:
        wait_until(
            lambda: hook.status([*handles, blocked])[blocked].native,
            "the mount to fail",
            holds=lambda native: native == "FailedMount",
        )
        hold_back(monkeypatch, "jobs", "pods")
        hook.changed_jobs()
        assert hook.status([*handles, blocked])[blocked].state is JobState.PENDING
        wait_until(
            lambda: hook.changed_jobs() or (),
            "the job to be told of again",
            holds=lambda told: blocked in told,
        )
    finally:
        hook.delete(blocked)


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


def test_the_streams_close_when_no_status_is_asked_for(jobs, monkeypatch):
    monkeypatch.setattr(informer, "IDLE_S", 2)
    monkeypatch.setattr(informer, "WATCH_S", 1)
    hook, handles = jobs
    all_run(hook, handles)
    seen = hook._states(hook._cluster(handles[0]))._informer
    wait_until(lambda: not seen.is_watching, "the streams to be closed")
    assert states(hook, handles) == [JobState.RUNNING] * 5
