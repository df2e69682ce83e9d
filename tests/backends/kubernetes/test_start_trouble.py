"""Jobs that never start, or whose process never ran, from the objects that a Kubernetes 1.34 shows."""

from __future__ import annotations

import json

import pytest

from airflow_stepop.exceptions import QuotaError, StepConfigError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.common.api_errors import Trouble, explained
from airflow_stepop.hooks.kubernetes import exec_errors
from airflow_stepop.hooks.kubernetes.cluster import ClusterError, api_error
from airflow_stepop.hooks.kubernetes.events import WarningEvent
from airflow_stepop.hooks.kubernetes.informer import slim_pod
from airflow_stepop.hooks.kubernetes.pod_log import PodLog
from airflow_stepop.hooks.kubernetes.startup_failures import is_blocked, refusal, startup_failure
from airflow_stepop.hooks.kubernetes.status import status_of
from airflow_stepop.job import JobState
from tests.support.cluster_answers import answer_of

AT = "2026-01-01T00:00:00Z"


# -- objects that do not exist


def without_node(message):
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": [condition]}}


@pytest.mark.parametrize(
    "message",
    [
        '0/1 nodes are available: persistentvolumeclaim "data" not found. not found',  # of 1.34
        'persistentvolumeclaim "data" not found',
        '0/3 nodes are available: persistentvolumeclaim "a-b" not found. '
        "preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
        '0/1 nodes are available: resourceclaim.resource.k8s.io "gpu" not found.',
    ],
)
def test_a_missing_claim_is_a_mistake_at_once(message):
    pod = without_node(message)
    assert is_blocked(pod)
    failure = startup_failure(pod, [])
    assert failure.category is Category.BAD_CONFIG
    assert failure.summary == f"The step needs an object that does not exist: {message}"


@pytest.mark.parametrize(
    "message",
    [
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
        'waiting for ephemeral volume controller to create the persistentvolumeclaim "p-d".',
        '0/1 nodes are available: persistentvolumeclaim "data" is being deleted.',
        "0/1 nodes are available: 1 Insufficient cpu.",
    ],
)
def test_a_claim_that_may_still_be_bound_is_waited_for(message):
    assert startup_failure(without_node(message), []) is None


# -- sidecars


def with_sidecar(state, restarts, **more):
    """Return a pod whose sidecar ``proxy`` has this state; the step waits for it."""
    waiting = {"waiting": {"reason": "PodInitializing"}}
    proxy = {"name": "proxy", "restartCount": restarts, "state": state, **more}
    return {
        "metadata": {"name": "p", "uid": "u", "creationTimestamp": AT},
        "spec": {
            "initContainers": [{"name": "proxy", "restartPolicy": "Always", "image": "x", "env": []}],
            "containers": [{"name": "step", "image": "y"}],
        },
        "status": {
            "phase": "Pending",
            "initContainerStatuses": [proxy],
            "containerStatuses": [{"name": "step", "state": waiting, "restartCount": 0}],
        },
    }


def ended(code, **more):
    return {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed", **more}}


@pytest.mark.parametrize("code", [3, 0, 137])
@pytest.mark.parametrize("slim", [lambda pod: pod, slim_pod], ids=["read", "watched"])
def test_a_sidecar_that_ends_again_and_again_is_named(code, slim):
    """A kubelet 1.34 shows ``terminated`` between two starts, and not CrashLoopBackOff."""
    pod = slim(with_sidecar(ended(code), 2))
    assert is_blocked(pod)
    failure = startup_failure(pod, [])
    assert failure.category is Category.BAD_CONFIG
    assert failure.summary == "Sidecar 'proxy' ended 3 times before the step could begin"
    assert failure.exit_code == code
    (message,) = {startup_failure(with_sidecar(ended(code, message="no config\n"), 5), []).summary}
    assert message == "Sidecar 'proxy' ended 6 times before the step could begin: no config"


@pytest.mark.parametrize(
    ("state", "restarts"),
    [(ended(3), 0), (ended(3), 1), ({"running": {"startedAt": AT}}, 9), ({"waiting": {"reason": "x"}}, 9)],
)
def test_a_sidecar_that_may_still_run_is_waited_for(state, restarts):
    assert startup_failure(with_sidecar(state, restarts), []) is None


def test_a_job_is_not_over_because_its_sidecar_is_started_again():
    """Else a deleted job would count as gone while its pod may still begin the step."""
    pod = with_sidecar(ended(3), 1)
    assert status_of({"metadata": {}, "spec": {}}, [pod]).state is JobState.PENDING
    assert status_of(None, [pod]).state is JobState.PENDING
    pod["spec"]["initContainers"][0].pop("restartPolicy")
    assert status_of(None, [pod]).state is JobState.GONE, "an ordinary init container has failed"


# -- quotas


def refused(message, count=1):
    return WarningEvent("FailedCreate", f"Error creating: {message}", count)


def exceeded(requested, used, limited, pod="s-train-x7k2p"):
    amounts = f"requested: {requested}, used: {used}, limited: {limited}"
    return f'pods "{pod}" is forbidden: exceeded quota: small, {amounts}'


@pytest.mark.parametrize(
    ("requested", "limited", "beyond"),
    [
        ("requests.cpu=4", "requests.cpu=2", "4 requests.cpu of 2"),
        ("cpu=2500m", "cpu=2", "2500m cpu of 2"),
        ("limits.memory=2Gi", "limits.memory=2G", "2Gi limits.memory of 2G"),
        ("requests.nvidia.com/gpu=1", "requests.nvidia.com/gpu=0", "1 requests.nvidia.com/gpu of 0"),
        ("cpu=1,memory=9Gi", "cpu=4,memory=8Gi", "9Gi memory of 8Gi"),
    ],
)
def test_a_quota_that_can_never_fit_fails_at_once(requested, limited, beyond):
    failure, *_ = refusal([refused(exceeded(requested, "cpu=0", limited))])
    assert failure.category is Category.BAD_CONFIG
    assert f"more than its namespace may ever have: {beyond} in quota small. " in failure.summary
    assert "exceeded quota: small" in failure.summary
    answer = answered(403, exceeded(requested, "cpu=0", limited))
    assert answer.kind is Trouble.INVALID
    assert f"it asks for more than its quota: {beyond} in quota small" in answer.message


@pytest.mark.parametrize(
    ("requested", "used", "limited"),
    [
        ("requests.cpu=2", "requests.cpu=1", "requests.cpu=2"),
        ("pods=1", "pods=5", "pods=5"),
        ("pods=1", "pods=0", "pods=0"),  # closed for now
        ("count/jobs.batch=1", "count/jobs.batch=0", "count/jobs.batch=0"),
        ("memory=1024Mi", "memory=1Gi", "memory=1Gi"),
        ("cpu=1,memory=1Gi", "cpu=4", "cpu=4"),
        ("odd=x", "odd=y", "odd=z"),
    ],
)
def test_a_quota_that_may_fit_later_is_waited_for(requested, used, limited):
    message = exceeded(requested, used, limited)
    assert refusal([refused(message, 99)])[0] is None
    assert answered(403, message).kind is Trouble.QUOTA
    cut = message[: message.index("limited")]  # an event's message has a limit
    assert refusal([refused(cut, 99)])[0] is None


def answered(status, message, reason="Forbidden"):
    from kubernetes.client import ApiException

    answer = ApiException(status=status, reason=reason)
    answer.body = json.dumps({"reason": reason, "message": message})
    return api_error(ClusterError("https://cluster", answer))


def test_the_waiting_line_is_the_same_at_each_try_of_the_controller():
    """Each try has another pod name, and the other pods of the namespace come and go."""
    lines = {
        refusal([refused(exceeded("cpu=2", f"cpu={used}", "cpu=4", f"s-train-{suffix}"))])[2]
        for used, suffix in (("3", "x7k2p"), ("2500m", "bcdfg"), ("4", "zzzzz"))
    }
    assert lines == {'pods "s-train" is forbidden: exceeded quota: small, requested: cpu=2, limited: cpu=4'}
    denied = 'pods "s-train-x7k2p" is forbidden: violates PodSecurity "restricted:latest": host'
    assert refusal([refused(denied)])[2] == denied.replace("-x7k2p", "")


def test_an_object_that_is_too_large_is_not_sent_again_and_again():
    for status, message in (
        (413, "Request entity too large: limit is 3145728"),
        (500, "etcdserver: request is too large"),
        (500, "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2 vs. 1)"),
    ):
        assert answered(status, message).kind is Trouble.INVALID
    assert answered(500, 'the webhook "request is too large" failed').kind is Trouble.TRANSIENT
    with pytest.raises(StepConfigError), explained(lambda _: answered(413, "x"), {Trouble.INVALID: "x"}):
        raise ConnectionError
    with pytest.raises(QuotaError), explained(lambda _: answered(403, exceeded("pods=1", "pods=1", "pods=1")),
                                              {Trouble.QUOTA: "x"}):  # fmt: skip
        raise ConnectionError


# -- processes that cannot be executed


def over(code, message="", reason="Error"):
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message, "startedAt": AT}}
    status = {"phase": "Failed", "containerStatuses": [{"name": "step", "state": state}]}
    return {"metadata": {"name": "p", "creationTimestamp": AT}, "status": status}


def job_with(*env, **fields):
    return {"spec": {"template": {"spec": {"containers": [{"name": "step", "env": list(env), **fields}]}}}}


@pytest.mark.parametrize(
    "line",
    [
        "exec /usr/bin/python3: argument list too long",
        'standard_init_linux.go:190: exec user process caused "argument list too long"',
        "standard_init_linux.go:228: exec user process caused: argument list too long",
    ],
)
def test_an_environment_that_is_too_large_is_a_mistake_with_its_size(line):
    assert exec_errors.may_be_one(over(1))
    assert exec_errors.is_one([line])
    job = job_with({"name": "DATA", "value": "x" * 204_795}, {"name": "B", "value": "y"})
    failure = exec_errors.failure_of(line, job, 1)
    assert failure.category is Category.BAD_CONFIG
    assert failure.exit_code == 1
    assert failure.summary == (
        f"The step's process could not be started: {line}. "
        "Its environment has 200 KiB, of which DATA has 200 KiB"
    )
    assert "128 KiB in one variable" in failure.hint


def test_variables_of_secrets_are_mentioned_as_their_size_is_not_known():
    line = "exec /usr/bin/python3: argument list too long"
    small = {"name": "A", "value": "x" * 10}
    for job in (
        job_with(small, envFrom=[{"secretRef": {"name": "keys"}}]),
        job_with(small, {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}),
    ):
        assert exec_errors.failure_of(line, job, 1).summary.endswith(
            "of which A has 12 B; the variables of env_from and valueFrom come in addition"
        )
    assert "environment is too large" in exec_errors.failure_of(line, {}, 1).summary


def test_an_image_of_another_architecture_is_a_mistake():
    line = "exec /usr/bin/python3: exec format error"
    assert exec_errors.is_one([line])
    failure = exec_errors.failure_of(line, {}, 255)
    assert failure.category is Category.BAD_CONFIG
    assert "architecture" in failure.hint


@pytest.mark.parametrize(
    ("pod", "lines"),
    [
        (over(1), ["Traceback (most recent call last):", "exec x: argument list too long"]),
        (over(1), ["exec of my own: 5 things done"]),
        (over(1), []),
        (over(137), ["exec /usr/bin/python3: argument list too long"]),
        (over(0), ["exec /usr/bin/python3: argument list too long"]),
        (None, ["exec /usr/bin/python3: argument list too long"]),
    ],
)
def test_other_ends_are_not_taken_for_one(pod, lines):
    assert not (exec_errors.may_be_one(pod) and exec_errors.is_one(lines))


# -- the lines of init containers


class Api:
    """Answers with the log of each container of one pod."""

    def __init__(self, **logs):
        self.logs = logs
        self.asked = []

    def path(self, *_):
        return ""

    def open(self, _method, _path, query):
        self.asked.append(query["container"])
        return answer_of(self.logs[query["container"]])


def pod_of(*inits, step=None, sidecars=()):
    """Return a pod whose init containers have these states."""
    states = [{"name": name, "state": state, "restartCount": 0} for name, state in inits]
    containers = [
        {"name": name, **({"restartPolicy": "Always"} if name in sidecars else {})} for name, _ in inits
    ]
    status = {"phase": "Running" if step else "Pending", "initContainerStatuses": states}
    if step:
        status["containerStatuses"] = [{"name": "step", "state": step}]
    metadata = {"name": "p", "uid": "u", "creationTimestamp": AT}
    return {"metadata": metadata, "spec": {"initContainers": containers}, "status": status}


RUNS = {"running": {"startedAt": AT}}


def stamped(second, text):
    return f"2026-01-01T00:00:{second:02}.000000000Z {text}"


def test_the_lines_of_init_containers_come_before_those_of_the_step():
    api = Api(
        fetch=[stamped(1, "fetching"), stamped(1, "fetched")], proxy=[stamped(1, "listening")],
        unpack=[stamped(1, "unpacked")], step=[stamped(9, "hello")],
    )  # fmt: skip
    began = pod_of(("fetch", RUNS), ("proxy", {"waiting": {}}), ("unpack", {"waiting": {}}))
    chunk = PodLog(api, began).since(None)
    assert [line.text for line in chunk.lines] == ["fetching", "fetched"]
    assert PodLog(api, began).since(chunk.cursor).lines == []
    full = pod_of(("fetch", ended(0)), ("proxy", RUNS), ("unpack", ended(0)), step=RUNS, sidecars=("proxy",))
    seen, cursor = [], chunk.cursor
    while (chunk := PodLog(api, full).since(cursor)) is not None and chunk.lines:
        seen += [line.text for line in chunk.lines]
        cursor = chunk.cursor
    assert seen == ["unpacked", "hello"], "a sidecar is not the step"
    api.asked.clear()
    assert PodLog(api, full).since(cursor).lines == []
    assert api.asked == ["step"], "what is over is not read again"
    assert [line.text for line in PodLog(api, full).last(9).lines] == ["hello"]


def test_an_init_container_without_output_holds_nothing_up():
    api = Api(quiet=[], step=[stamped(9, "hello")])
    found = PodLog(api, pod_of(("quiet", ended(0)), step=RUNS)).since(None)
    assert [line.text for line in found.lines] == ["hello"]
    assert PodLog(Api(quiet=[]), pod_of(("quiet", ended(0)))).since(None) is None


def test_the_lines_of_a_broken_init_container_come_after_those_of_the_good_ones():
    api = Api(good=[stamped(1, "good")], bad=[stamped(2, "bad")])
    pod = pod_of(("good", ended(0)), ("bad", ended(2)), ("later", {"waiting": {}}))
    first = PodLog(api, pod).since(None)
    second = PodLog(api, pod).since(first.cursor)
    assert [line.text for line in (*first.lines, *second.lines)] == ["good", "bad"]
    assert PodLog(api, pod).since(second.cursor).lines == []
    assert [line.text for line in PodLog(api, pod).last(5).lines] == ["bad"]


def test_a_cursor_of_an_older_version_goes_on_where_it_was():
    api = Api(fetch=[stamped(1, "fetched")], step=[stamped(8, "one"), stamped(9, "two")])
    log = PodLog(api, pod_of(("fetch", ended(0)), step=RUNS))
    older = json.dumps(["2026-01-01T00:00:08.000000000Z", 1, "u"])
    assert [line.text for line in log.since(older).lines] == ["two"]


def test_a_sidecar_that_keeps_the_step_from_starting_shows_its_lines():
    api = Api(proxy=[stamped(1, "no config")])
    assert PodLog(api, with_sidecar(ended(3), 2)).last_texts(10) == ["no config"]
