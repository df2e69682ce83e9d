"""Failures on a real cluster, and how they are reported."""

from __future__ import annotations

import json
import time

import pytest

from airflow_stepop.exceptions import OutcomeLostError, QuotaError, StepConfigError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.kubernetes import KubernetesStepHook
from airflow_stepop.hooks.kubernetes.manifests import JOB_NAME, default_image
from airflow_stepop.hooks.kubernetes.pod_log import PodLog
from airflow_stepop.job import JobState
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.results import StepResult
from airflow_stepop.stores.configured import open_store
from airflow_stepop.testing import make_step
from tests.support.cluster import NO_IMAGE, offer, only_node
from tests.support.cluster_jobs import pods_of, wait_lines, wait_no_pods, wait_over, wait_running, wait_status
from tests.support.waiting import wait_until

# Wait this long for a kubelet to learn of a new label of its node: no API tells when it has, and until then
# it refuses pods that need the label.
KUBELET_HEARS_S = 10.0


def is_refused(call):
    """Return whether the cluster forbids the call."""
    from kubernetes.client.exceptions import ApiException

    try:
        call()
    except ApiException as error:
        return error.status == 403
    return False


def is_full(submit):
    return fails(submit, QuotaError)


def is_away(submit):
    return fails(submit, ConnectionError)


def fails(submit, error):
    try:
        submit()
    except error:
        return True
    return False


def is_counted(admin, quota, namespace):
    """Return whether the cluster has counted what a quota limits. Until then it refuses every object."""
    return bool(admin.read_namespaced_resource_quota(quota, namespace).status.hard)


def only_pod(hook, handle):
    (pod,) = pods_of(hook, handle)
    return pod["metadata"]["name"]


def test_out_of_memory(hook, submitted):
    _, handle = submitted(
        ["python3", "-c", "bytearray(1 << 30)"], resources=ResourceSettings(memory="128MiB")
    )
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.OOM
    assert "memory of resource_settings" in status.failure.hint


def test_an_image_that_is_not_there_is_known_soon(hook, submitted):
    _, handle = submitted(["true"], image=NO_IMAGE)
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.IMAGE_PULL
    assert NO_IMAGE in status.failure.summary


def test_a_missing_secret_is_a_mistake_and_not_waited_for(hook, submitted):
    _, handle = submitted(["true"], settings={"env_from": [{"secret_ref": {"name": "no-such-secret"}}]})
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.BAD_CONFIG
    assert "no-such-secret" in status.failure.summary


def test_an_image_without_that_python_says_so(hook, submitted):
    _, handle = submitted(["true"], settings={"python": "python2.4"})
    seen = []
    status = wait_status(
        hook, handle, "its end", lambda status: seen.append(status) or status.state.is_terminal
    )
    assert {status.started_at for status in seen} == {None}, "its node says that it began in 1970"
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.BAD_CONFIG
    assert "python3" in status.failure.hint


BESIDE = {"name": "beside", "image": default_image(), "command": ["sleep", "600"]}
TEMPLATE = {"spec": {"containers": [{"name": "step"}, BESIDE], "terminationGracePeriodSeconds": 1}}


def test_a_step_that_fails_beside_a_container_that_runs_on_has_failed(hook, submitted):
    """A pod ends with the last of its containers, except those named in ``sidecars``."""

    def fail():
        raise ValueError("no")

    call = FunctionCall(function=fail, args=[], kwargs={}, reference=None)
    step, handle = submitted(call, settings={"pod_template": TEMPLATE})
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure is None, "the step's own outcome says more"
    failure = read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)["failure"]
    assert failure["exception"]["qualname"] == "ValueError"
    hook.cancel(handle)
    wait_no_pods(hook, handle)
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.USER_ERROR


def test_a_step_that_succeeds_beside_a_container_that_runs_on_has_succeeded(hook, submitted):
    _, handle = submitted(["true"], settings={"pod_template": TEMPLATE})
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    hook.cancel(handle)
    wait_no_pods(hook, handle)
    assert wait_over(hook, handle).state is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("wanted", "said", "option"),
    [
        ({"cpu_count": 100}, "Insufficient cpu", "cpu_count"),
        ({"gpu_count": 1, "gpu_type": "A100"}, "node affinity/selector", "gpu_type"),
    ],
)
def test_what_no_node_has_is_waited_for_in_the_scheduler_s_own_words(hook, submitted, wanted, said, option):
    _, handle = submitted(["true"], resources=ResourceSettings(**wanted))
    status = wait_status(hook, handle, f"{said!r} is said", lambda status: said in status.description)
    assert status.state is JobState.PENDING
    assert option in status.description.rpartition("(see ")[2]
    hook.cancel(handle)
    assert wait_over(hook, handle).state is JobState.CANCELLED


def test_a_pod_that_somebody_deletes_was_taken_away(hook, submitted):
    from kubernetes import client, config

    _, handle = submitted(["sleep", "600"], settings={"termination_grace_period_seconds": 1})
    wait_running(hook, handle)
    admin = client.CoreV1Api(config.new_client_from_config())  # Airflow may not delete pods
    admin.delete_namespaced_pod(only_pod(hook, handle), hook.cluster().namespace)
    status = wait_over(hook, handle)
    assert status.state is JobState.FAILED
    assert status.failure.category is Category.PREEMPTED


def test_a_cancelled_step_has_its_grace_period(hook, submitted):
    script = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    step, handle = submitted(["sh", "-c", script])
    wait_lines(hook, handle)
    hook.cancel(handle)
    assert wait_over(hook, handle).state is JobState.CANCELLED
    assert hook.submit(step.spec, step.payload) == handle


@pytest.mark.parametrize("size", [100, 10_000, 40_000])
def test_results_of_any_small_size_need_no_store(hook, submitted, size):
    def text(size):
        return "x" * size

    step, handle = submitted(FunctionCall(function=text, args=[size], kwargs={}, reference=None))
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    found = to_xcom(read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)["result"])
    assert (found.load() if isinstance(found, StepResult) else found) == "x" * size
    assert [line for chunk in hook.chunks(handle) for line in chunk.lines] == []


def test_a_result_that_needs_a_store_says_so(hook, submitted):
    def large():
        return bytes(100_000)

    step, handle = submitted(large)
    assert wait_over(hook, handle).state is JobState.FAILED
    failure = read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)["failure"]
    assert failure["category"] == "bad_config"
    assert "[stepop] store" in failure["hint"]


def test_an_outcome_that_may_not_stand_in_the_log_comes_back_through_the_store(
    hook, submitted, s3_for_pods, monkeypatch
):
    def text():
        return "x" * 40_000

    address = s3_for_pods.new_address()
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    uri = open_store(address).uri("results/one")
    step, handle = submitted(text, settings={"outcome_in_log": False}, result_uri=uri)
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    assert PodLog(hook.cluster(), hook._states(hook.cluster()).pod_of(handle)).frames() == []
    found = to_xcom(read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)["result"])
    assert (found.load() if isinstance(found, StepResult) else found) == "x" * 40_000


def test_without_log_and_store_there_is_no_way_back(hook, submitted):
    with pytest.raises(StepConfigError, match="outcome_in_log=False needs"):
        submitted(["true"], settings={"outcome_in_log": False})


def test_a_triggerer_needs_no_look_at_the_connection(hook, submitted, monkeypatch):
    """Threads of a triggerer cannot look up connections. The triggerer has looked up the handle's before."""
    _, handle = submitted(["true"])
    connection = hook.connection
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
    assert handle.conn_id == "kubernetes_default"
    other = KubernetesStepHook(handle.conn_id, connection)
    assert wait_over(other, handle).state is JobState.SUCCEEDED


def test_without_a_connection_the_default_configuration_leads_to_the_cluster(
    monkeypatch, kubernetes_namespace
):
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT")
    hook = KubernetesStepHook()
    assert hook.used_conn_id is None
    assert hook.cluster(None, kubernetes_namespace).request("GET", "/version")["major"] == "1"


def test_a_connection_that_leads_nowhere_says_so(monkeypatch):
    extra = {"kube_config_path": "/nowhere/config"}
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    with pytest.raises(StepConfigError, match=r"'nowhere' leads to no Kubernetes cluster.*kube_config"):
        KubernetesStepHook("nowhere").scope()


# -- a submit that is killed half-way


class Killed(BaseException):
    """Stands for SIGKILL: nothing runs after the request that was just answered."""


@pytest.mark.parametrize("after", ["job", "secret", "release"])
def test_killed_in_the_submit(hook, submitted, kubernetes_namespace, monkeypatch, after):
    """No pod exists before the Secret does, and the next submit completes the submission."""
    step = make_step(["echo", "hello"])
    dying, cluster = KubernetesStepHook(), KubernetesStepHook().cluster()
    method, last = {
        "job": ("create", "jobs"),
        "secret": ("create", "secrets"),
        "release": ("patch", "jobs"),
    }[after]
    verb = getattr(cluster, method)

    def die_after(kind, *args):
        answer = verb(kind, *args)
        if kind == last:
            raise Killed
        return answer

    monkeypatch.setattr(cluster, method, die_after)
    monkeypatch.setattr(dying, "cluster", lambda *_: cluster)
    with pytest.raises(Killed):
        dying.submit(step.spec, step.payload)
    if after != "release":
        assert list(cluster.list("pods", labelSelector=f"{JOB_NAME}={step.spec.name}")) == []
    handle = hook.submit(step.spec, step.payload)
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    assert [line.text for line in hook.tail(handle, 5).lines] == ["hello"]
    assert len(list(cluster.list("pods", labelSelector=f"{JOB_NAME}={step.spec.name}"))) == 1
    hook.delete(handle)


def test_the_input_of_an_earlier_job_is_not_taken(hook, monkeypatch, admin):
    """The cluster is about to remove that Secret. A step that used it could lose its result."""
    step, namespace = make_step(["true"]), hook.cluster().namespace
    dying = KubernetesStepHook()
    monkeypatch.setattr(dying.cluster(), "patch", refuse)
    with pytest.raises(Killed):
        dying.submit(step.spec, step.payload)
    held = {"metadata": {"finalizers": ["stepop.test/hold"]}}  # else the cluster may remove it first
    admin.patch_namespaced_secret(step.spec.name, namespace, held)
    assert hook.lookup(step.spec) is None
    with pytest.raises(ConnectionError, match=r"Secret of an earlier job|deleted while it was submitted"):
        hook.submit(step.spec, step.payload)
    admin.patch_namespaced_secret(step.spec.name, namespace, {"metadata": {"finalizers": None}})
    handles = []
    wait_until(
        lambda: not is_away(lambda: handles.append(hook.submit(step.spec, step.payload))),
        "the Secret of the earlier job to be gone",
    )
    assert wait_over(hook, handles[0]).state is JobState.SUCCEEDED
    hook.delete(handles[0])


def refuse(*_):
    raise Killed


def test_a_submit_that_never_came_to_its_end_is_taken_back(hook, monkeypatch):
    step, cluster = make_step(["true"]), hook.cluster()
    cluster.create("jobs", hook.render(step.spec))
    assert hook.lookup(step.spec) is None
    wait_until(lambda: cluster.get("jobs", step.spec.name) is None, "the job to be gone")


def test_a_job_that_is_deleted_is_gone(hook, submitted):
    _, handle = submitted(["sleep", "600"], settings={"termination_grace_period_seconds": 1})
    wait_running(hook, handle)
    hook.delete(handle)
    assert wait_over(hook, handle).state is JobState.GONE
    with pytest.raises(OutcomeLostError):
        hook.outcome(handle)


# -- the step has ended, and its Job does not know yet


def test_a_step_has_succeeded_when_its_container_has(hook, submitted):
    _, handle = submitted(["true"])
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    hook.cancel(handle)  # too late to have an effect
    time.sleep(3)  # nothing may change in this time; a slow machine only weakens the test
    assert hook.status([handle])[handle].state is JobState.SUCCEEDED
    assert hook.outcome(handle).digest


def test_a_container_that_ends_well_because_it_was_asked_to_has_not_succeeded(hook, submitted):
    script = "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    _, handle = submitted(["sh", "-c", script])
    wait_lines(hook, handle)
    hook.cancel(handle)
    assert wait_over(hook, handle).state is JobState.CANCELLED


# -- failures before the start


def test_a_broken_init_container_is_named_and_its_last_lines_are_told(hook, submitted):
    image = default_image()
    broken = {"name": "fetch", "image": image, "command": ["sh", "-c", "echo no such bucket; exit 3"]}
    _, handle = submitted(["true"], settings={"init_containers": [broken]})
    status = wait_over(hook, handle)
    assert status.failure.category is Category.BAD_CONFIG
    assert "'fetch'" in status.failure.summary
    assert status.failure.exit_code == 3
    assert [line.text for line in hook.tail(handle, 5).lines] == ["no such bucket"]


def test_a_volume_that_is_fuller_than_it_may_be_is_a_mistake(hook, submitted):
    """A kubelet measures volumes only once in one or two minutes."""
    settings = {
        "volumes": [{"name": "scratch", "empty_dir": {"size_limit": "1Mi"}}],
        "volume_mounts": [{"name": "scratch", "mount_path": "/scratch"}],
        "termination_grace_period_seconds": 1,
    }
    command = ["sh", "-c", "head -c 20000000 /dev/zero > /scratch/full; sleep 600"]
    _, handle = submitted(command, settings=settings)
    failure = wait_over(hook, handle).failure
    assert failure.category is Category.BAD_CONFIG
    assert 'EmptyDir volume "scratch" exceeds the limit "1Mi"' in failure.summary


def test_a_result_comes_back_from_a_pod_of_many_containers(hook, submitted):
    """A node limits the messages of all containers of a pod together to 12 KiB, in equal shares."""

    def result():
        return {f"metric_{number}": number / 7 for number in range(45)}

    others = [{"name": f"i{number}", "image": default_image(), "command": ["true"]} for number in range(4)]
    call = FunctionCall(function=result, args=[], kwargs={}, reference=None)
    step, handle = submitted(call, settings={"init_containers": others})
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    found = to_xcom(read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)["result"])
    assert (found.load() if isinstance(found, StepResult) else found) == result()


@pytest.mark.parametrize("size", [10, 20_000, 0])
def test_the_outcome_of_an_ended_pod_survives_its_removal(hook, submitted, admin, size):
    """Autoscalers remove an idle node with its ended pods while the task still waits for a worker."""

    def text(size):
        if not size:
            raise ValueError("no")
        return "x" * size

    step, handle = submitted(FunctionCall(function=text, args=[size], kwargs={}, reference=None))
    ended = wait_over(hook, handle)
    hook.preserve_outcome(handle)
    admin.delete_namespaced_pod(only_pod(hook, handle), hook.cluster().namespace, grace_period_seconds=0)
    wait_no_pods(hook, handle)
    status = wait_over(hook, handle)
    assert (status.state, status.failure) == (ended.state, None)
    outcome = read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)
    if size:
        found = to_xcom(outcome["result"])
        assert (found.load() if isinstance(found, StepResult) else found) == text(size)
    else:
        assert outcome["failure"]["exception"]["qualname"] == "ValueError"


def test_a_failure_that_only_the_pod_knew_is_preserved(hook, submitted, admin):
    command = ["python3", "-c", "bytearray(1 << 30)"]
    _, handle = submitted(command, resources=ResourceSettings(memory="128MiB"))
    wait_status(
        hook,
        handle,
        "its end, and its reason",
        lambda status: status.state.is_terminal and status.native == "BackoffLimitExceeded",
    )
    hook.preserve_outcome(handle)
    admin.delete_namespaced_pod(only_pod(hook, handle), hook.cluster().namespace, grace_period_seconds=0)
    wait_no_pods(hook, handle)
    assert wait_over(hook, handle).failure.category is Category.OOM


def test_the_time_limit_of_a_step_begins_when_it_begins(hook, submitted):
    """A node counts a pod's deadline from its acceptance, so image pulls and init containers would count."""
    slow = {"name": "slow", "image": default_image(), "command": ["sleep", "4"]}
    _, handle = submitted(["sleep", "1"], settings={"init_containers": [slow]}, timeout_s=3.0)
    assert wait_over(hook, handle).state is JobState.SUCCEEDED


def test_a_volume_that_is_not_there_is_a_mistake(hook, submitted):
    settings = {
        "volumes": [{"name": "data", "config_map": {"name": "no-such-map"}}],
        "volume_mounts": [{"name": "data", "mount_path": "/data"}],
    }
    _, handle = submitted(["true"], settings=settings)
    status = wait_over(hook, handle)
    assert status.failure.category is Category.BAD_CONFIG
    assert "no-such-map" in status.failure.summary


def test_an_account_that_is_not_there_is_a_mistake(hook, submitted):
    _, handle = submitted(["true"], settings={"service_account_name": "nobody"})
    status = wait_over(hook, handle)
    assert status.failure.category is Category.BAD_CONFIG
    assert 'serviceaccount "nobody" not found' in status.failure.summary


def test_a_pod_that_the_namespace_forbids_is_denied(hook, submitted, admin):
    label = "pod-security.kubernetes.io/enforce"
    namespace = hook.cluster().namespace
    admin.patch_namespace(namespace, {"metadata": {"labels": {label: "restricted"}}})
    pod = {"metadata": {"name": "try"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    try:
        wait_until(
            lambda: is_refused(lambda: admin.create_namespaced_pod(namespace, pod, dry_run="All")),
            "the label of the namespace to be heard of",
        )
        _, handle = submitted(["true"])
        status = wait_over(hook, handle)
    finally:
        admin.patch_namespace(namespace, {"metadata": {"labels": {label: None}}})
    assert status.failure.category is Category.DENIED
    assert "violates PodSecurity" in status.failure.summary


def test_a_quota_that_is_used_up_is_waited_for(hook, submitted, admin):
    """The task shows the cluster's own message until there is room."""
    namespace = hook.cluster().namespace
    quota = {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "0"}}}
    admin.create_namespaced_resource_quota(namespace, quota)
    try:
        wait_until(lambda: is_counted(admin, "small", namespace), "the quota to be counted")
        _, handle = submitted(["true"])
        status = wait_status(
            hook, handle, "the quota is used up", lambda status: "exceeded quota" in status.description
        )
        assert status.state is JobState.PENDING
    finally:
        admin.delete_namespaced_resource_quota("small", namespace)
    assert wait_over(hook, handle).state is JobState.SUCCEEDED


def test_a_gpu_is_waited_for_and_found_by_its_name(hook, submitted, admin):
    gpu = "nvidia.com/gpu"
    node = only_node(admin)
    wanted = ResourceSettings(gpu_count=1, gpu_type="A100")
    _, handle = submitted(["true"], resources=wanted)
    wait_status(hook, handle, "no node has that", lambda status: "node" in status.description)
    label = "nvidia.com/gpu.product"
    admin.patch_node(node, {"metadata": {"labels": {label: "NVIDIA-A100-SXM4-40GB"}}})
    time.sleep(KUBELET_HEARS_S)
    offer(admin, node, gpu, "2")
    try:
        assert wait_over(hook, handle).state is JobState.SUCCEEDED
    finally:
        admin.patch_node(node, {"metadata": {"labels": {label: None}}})
        offer(admin, node, gpu, None)


def test_a_spot_node_is_waited_for_and_its_taint_tolerated(hook, submitted, admin):
    label, value = "kubernetes.azure.com/scalesetpriority", "spot"
    node = only_node(admin)
    _, handle = submitted(["true"], settings={"spot": True})
    wait_status(hook, handle, "no node has that", lambda status: "node" in status.description)
    taint = {"key": label, "value": value, "effect": "NoSchedule"}
    soon = {"key": "stepop.test/soon", "effect": "NoSchedule"}
    admin.patch_node(node, {"metadata": {"labels": {label: value}}, "spec": {"taints": [taint, soon]}})
    try:
        time.sleep(KUBELET_HEARS_S)
        admin.patch_node(node, {"spec": {"taints": [taint]}})
        assert wait_over(hook, handle).state is JobState.SUCCEEDED
    finally:
        admin.patch_node(node, {"metadata": {"labels": {label: None}}, "spec": {"taints": None}})


def test_a_quota_of_jobs_that_is_used_up_takes_no_job(hook, submitted, admin):
    """The caller tries again later, under the same name."""
    namespace = hook.cluster().namespace
    step = make_step(["true"])
    quota = {"metadata": {"name": "jobs"}, "spec": {"hard": {"count/jobs.batch": "0"}}}
    admin.create_namespaced_resource_quota(namespace, quota)
    try:
        wait_until(lambda: is_counted(admin, "jobs", namespace), "the quota to be counted")
        with pytest.raises(QuotaError, match=r"is used up: .*exceeded quota: jobs"):
            hook.submit(step.spec, step.payload)
        assert hook.lookup(step.spec) is None
    finally:
        admin.delete_namespaced_resource_quota("jobs", namespace)
    handles = []
    wait_until(
        lambda: not is_full(lambda: handles.append(hook.submit(step.spec, step.payload))),
        "the deletion of the quota to be heard of",
    )
    (handle,) = handles
    assert wait_over(hook, handle).state is JobState.SUCCEEDED
    hook.delete(handle)


def test_a_secret_that_is_deleted_before_the_start_is_reported(hook, submitted, admin):
    namespace, later = hook.cluster().namespace, "stepop.test/later"
    step = make_step(["true"], settings={"resources": {"limits": {later: "1"}}})
    handle = hook.submit(step.spec, step.payload)
    admin.delete_namespaced_secret(handle.id, namespace)
    node = only_node(admin)
    offer(admin, node, later, "1")
    try:
        status = wait_over(hook, handle)
    finally:
        offer(admin, node, later, None)
        hook.delete(handle)
    assert status.failure.category is Category.INFRA
    assert "own Secret was deleted" in status.failure.summary


@pytest.mark.parametrize(
    ("asked", "category", "said"),
    [
        (
            {"nodeSelector": {"stepop.test/is": "nowhere"}},
            Category.NO_CAPACITY,
            "Predicate NodeAffinity failed",
        ),
        ({"os": {"name": "windows"}}, Category.BAD_CONFIG, "the OS field doesn't match node OS"),
    ],
)
def test_a_node_that_refuses_the_pod_is_told_from_a_step_that_fails(
    hook, submitted, admin, asked, category, said
):
    """The pod names its node, so no scheduler checks first; only the kubelet refuses."""
    template = {"spec": {"nodeName": only_node(admin), **asked}}
    _, handle = submitted(["true"], settings={"pod_template": template})
    failure = wait_over(hook, handle).failure
    assert failure.category is category
    assert failure.summary.startswith("The node refused the step's pod: ")
    assert said in failure.summary


def test_a_queue_starts_a_job_stops_it_and_starts_it_again(hook, submitted):
    """Suspend and resume a job as Kueue does: https://kueue.sigs.k8s.io/docs/concepts/workload/"""
    from kubernetes import client, config

    kueue = client.BatchV1Api(config.new_client_from_config())
    namespace = hook.cluster().namespace

    def suspend(is_suspended):
        kueue.patch_namespaced_job(handle.id, namespace, {"spec": {"suspend": is_suspended}})

    settings = {"queue_name": "gpus", "termination_grace_period_seconds": 1}
    _, handle = submitted(["sleep", "30"], settings=settings)  # must still run when it is suspended
    job = kueue.read_namespaced_job(handle.id, namespace)
    assert job.metadata.labels["kueue.x-k8s.io/queue-name"] == "gpus"
    assert hook.status([handle])[handle].state is JobState.PENDING
    suspend(False)
    wait_running(hook, handle)
    time.sleep(1.1)  # the times in the API are whole seconds; longer does no harm
    suspend(True)
    status = wait_status(
        hook, handle, "it is suspended", lambda status: status.description.startswith("Suspended")
    )
    assert status.state is JobState.PENDING
    assert "Kueue has not admitted the job yet (queue 'gpus')" in status.description
    assert status.waits_since > job.metadata.creation_timestamp.timestamp()
    suspend(False)
    assert wait_over(hook, handle).state is JobState.SUCCEEDED


def test_a_job_that_its_queue_never_started_can_be_cancelled(hook, submitted):
    _, handle = submitted(["true"], settings={"queue_name": "gpus"})
    hook.cancel(handle)
    assert wait_over(hook, handle).state is JobState.GONE
