"""Faults around the steps of a real Airflow on a real cluster, and their counted cost.

Each fault occurs while its steps run. Faults that affect only one task occur at the same time.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import uuid
from contextlib import suppress
from functools import partial

import pytest

from tests.chaos.faults.fault_table import PAGE, table_of
from tests.chaos.faults.proxy import RESET
from tests.support import cluster, deployment
from tests.support.waiting import PATIENCE_S

IS_FULL = bool(os.environ.get("STEPOP_FAULTS_FULL"))
KILLED = {
    "job": ("after the Job was created", "found: continue"),
    "secret": ("after the Secret was created", "found: continue"),
    "release": ("after the Job was released", "Attached to"),
    "saved": ("after the handle was saved", "found: attach"),
    "finishing": ("before the outcome was read", "found: attach"),
    "read": ("after the outcome was read", "found: attach"),
}
TAKEN = {
    "evicted": ("The pod is evicted (Eviction API)", "evicted"),
    "deleted": ("The pod is deleted", "deleted before it ended"),
    "preempted": ("The pod is preempted by one of a higher priority", "resubmitting (1 of 3)"),
}
LONG = {"preempted", "job", "secret"}  # only in the long form
SLOT = "stepop.test/slot"
LATER = "stepop.test/later"


def is_due(name):
    return IS_FULL or name not in LONG


def evict(admin, pod):
    metadata = {"name": pod["metadata"]["name"], "namespace": pod["metadata"]["namespace"]}
    admin.core.create_namespaced_pod_eviction(
        *metadata.values(), {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
    )


def remove(admin, pod):
    admin.core.delete_namespaced_pod(pod["metadata"]["name"], pod["metadata"]["namespace"])


def has_status(status, call):
    """Return whether the API server refuses the call with this status; raise any other error."""
    from kubernetes.client.exceptions import ApiException

    try:
        call()
    except ApiException as error:
        if error.status != status:
            raise
        return True
    return False


# -- faults that affect one task alone


@pytest.fixture(scope="module")
def preempt(airflow, admin, namespaces):
    """Let a pod of a higher priority briefly claim the node's only slot."""
    name, made = "stepop-faults", []

    def act(admin, pod):
        admin.scheduling.create_priority_class({"metadata": {"name": name}, "value": 1000})
        made.append(namespaces["default"])
        container = {
            "name": "c",
            "image": pod["spec"]["containers"][0]["image"],
            "command": ["sleep", "3"],
            "resources": {"limits": {SLOT: "1"}},
        }
        spec = {
            "priorityClassName": name,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        }
        pod = {"metadata": {"name": name}, "spec": spec}
        create = partial(admin.core.create_namespaced_pod, made[0], pod)
        airflow.wait_for(lambda: not has_status(403, create), "a priority class that the API server knows")

    yield act
    for namespace in made:  # one of the faults recreates the cluster, and then neither object exists
        has_status(404, partial(admin.scheduling.delete_priority_class, name))
        has_status(404, partial(admin.core.delete_namespaced_pod, name, namespace))


@pytest.fixture(scope="module")
def at_once(begin, admin, preempt):
    """The runs of these faults, all under way. Workers are killed at the points that their DAGs name."""
    node = cluster.only_node(admin.core)
    cluster.offer(admin.core, node, SLOT, "1")
    cluster.offer(admin.core, node, LATER, None)
    admin.core.patch_node(node, {"metadata": {"labels": {LATER: None}}})
    killed = {f"killed_{point}": begin(f"killed_{point}") for point in KILLED if is_due(point)}
    runs = {**killed, "image": begin("image"), "secret": begin("secret")}
    for way, take in {"evicted": evict, "deleted": remove, "preempted": preempt}.items():
        if is_due(way):
            runs[way] = begin(way)  # one after the other, since their steps do not run for ever
            for pod in runs[way].wait_running():
                take(admin, pod)
    secret = runs["secret"]
    secret.wait_state("deferred", secret.steps)
    for job in secret.wait_jobs(secret.steps):
        admin.core.delete_namespaced_secret(job["metadata"]["name"], job["metadata"]["namespace"])
    cluster.offer(admin.core, node, LATER, "100")
    runs["refused"] = begin("refused")
    runs["refused"].wait_refused()
    admin.core.patch_node(node, {"metadata": {"labels": {LATER: "yes"}}})
    yield runs
    for resource in (SLOT, LATER):
        cluster.offer(admin.core, node, resource, None)
    admin.core.patch_node(node, {"metadata": {"labels": {LATER: None}}})


@pytest.mark.parametrize("way", list(filter(is_due, TAKEN)))
def test_the_pod_is_taken_away(at_once, way):
    """The step is submitted again without using up a retry."""
    title, log = TAKEN[way]
    at_once[way].settle(title, log=log, generations=2)


@pytest.mark.parametrize("point", list(filter(is_due, KILLED)))
def test_the_worker_is_killed(at_once, point):
    when, log = KILLED[point]
    at_once[f"killed_{point}"].settle(f"The worker is killed (`kill -9`) {when}", log=log, retries=1)


def test_the_image_is_not_there(at_once):
    at_once["image"].settle("The image is not there", state="failed", log=cluster.NO_IMAGE)


def test_the_secret_is_deleted_before_the_start(at_once):
    title = "The Secret is deleted before the start"
    at_once["secret"].settle(title, log="own Secret was deleted", generations=2, retries=1)


def test_the_node_refuses_the_pod(at_once):
    """The scheduler's view of a node, its devices and its room may differ from the kubelet's."""
    title, log = "The node refuses the pod (kubelet admission)", "The node refused the step's pod"
    at_once["refused"].settle(title, log=log, generations=2)


# -- the connection to the API server


def test_the_api_server_answers_with_errors(begin, proxy):
    run = begin("proxy")
    run.wait_jobs(1)
    end = time.monotonic() + (300 if IS_FULL else 0)
    troubles = (429, 503, 500, RESET)
    while True:
        for trouble in troubles:
            make_trouble(run, proxy, trouble)
        if time.monotonic() > end:
            break
    length = "for 5 minutes" if IS_FULL else "once each"
    run.settle(f"The API server answers 429, 503, 500, or hangs up, {length}", log="kubernetes has trouble")


def make_trouble(run, proxy, trouble):
    """Let the API server answer this way until a client has met it: a client in back-off may ask late."""
    proxy.trouble = trouble
    try:
        time.sleep(5)  # at least
        run.airflow.wait_for(lambda: proxy.answers[trouble], f"somebody who meets {trouble}", run.describe)
    finally:
        proxy.trouble = None
    time.sleep(1.5)  # some time without trouble; longer does no harm


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
def test_the_token_is_replaced(begin, admin, namespaces, token_config):
    """The old token is revoked, and for a while there is no new one."""
    run = begin("token")
    run.wait_running()
    config = json.loads(token_config.read_text())
    token_config.write_text(json.dumps(with_new_token(config, admin, namespaces["token"])))
    run.settle("The token is replaced in the file that the connection names", log="Submitted: ")


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
def test_the_token_is_replaced_in_airflow(begin, airflow, admin, namespaces, token_config):
    """The token is in the connection itself, so tasks that already wait must look the connection up again."""
    namespace = namespaces["token"]
    config = json.loads(token_config.read_text())
    stored = {"connection_id": "kubernetes_stored", "conn_type": "kubernetes"}

    def store(method, path):
        extra = json.dumps({"kube_config": json.dumps(config), "namespace": namespace})
        airflow.ask(method, path, json={**stored, "extra": extra}).raise_for_status()

    store("POST", "connections")
    run = begin("connection")
    run.wait_running()
    config = with_new_token(config, admin, namespace)
    token_config.write_text(json.dumps(config))  # other faults use the same account
    store("PATCH", "connections/kubernetes_stored")
    run.settle("The token is replaced in Airflow's connection", log="Submitted: ")


def with_new_token(config, admin, namespace):
    """Return the configuration with a new token, once the server no longer accepts the old one."""
    admin.core.delete_namespaced_service_account(cluster.NAME, namespace)
    time.sleep(15)  # the server caches a token for ten seconds; longer does no harm
    return {**config, "users": [{"name": "u", "user": {"token": cluster.new_token(namespace)}}]}


# -- quotas


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
@pytest.mark.parametrize(
    ("name", "hard", "log"),
    [
        ("quota_pods", {"pods": "3"}, "exceeded quota"),
        ("quota_jobs", {"count/jobs.batch": "3"}, "submitting again in"),
    ],
)
def test_a_quota_is_used_up(begin, admin, namespaces, name, hard, log):
    namespace = namespaces[name.replace("quota", "full")]
    quota = {"metadata": {"name": "small"}, "spec": {"hard": hard}}
    admin.core.create_namespaced_resource_quota(namespace, quota)
    begin(name).settle(f"A quota of {next(iter(hard))} is used up", log=log)


# -- the cluster itself


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
def test_the_triggerer_is_killed(begin, airflow):
    run = begin("triggerer")
    run.wait_running()
    airflow.kill("triggerer")
    airflow.start("triggerer")
    run.settle("The triggerer is killed while the steps run", log="Submitted: ")


def test_the_api_server_is_killed(begin, parts):
    run = begin("api_server")
    run.wait_running()
    parts.send("kube-apiserver", signal.SIGKILL)
    time.sleep(60 if IS_FULL else 3)
    parts.up()
    run.settle("The API server is killed while the steps run, and comes back", log="Submitted: ")


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
def test_the_kubelet_stands_still(begin, parts):
    run = begin("kubelet")
    run.wait_running()
    parts.send("kubelet", signal.SIGSTOP)
    length_s = 60 if IS_FULL else 15  # after 40 s the node counts as not ready
    time.sleep(length_s)
    parts.send("kubelet", signal.SIGCONT)
    run.settle(f"The kubelet stands still for {length_s} s", log="Submitted: ")


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
def test_the_node_is_drained(begin, admin):
    run = begin("drained")
    pods = run.wait_running()
    node = cluster.only_node(admin.core)
    admin.core.patch_node(node, {"spec": {"unschedulable": True}})
    try:
        for pod in pods:
            evict(admin, pod)
        run.wait_jobs(2 * run.steps)
    finally:
        admin.core.patch_node(node, {"spec": {"unschedulable": False, "taints": None}})
    run.settle("The node is drained", log="resubmitting (1 of 3)", generations=2)


def test_the_node_is_removed_once_its_steps_are_over(begin, airflow, admin):
    """Autoscalers remove an idle node, here while no worker is free to read the outcomes."""
    pool = {"name": "autoscaled", "slots": 16, "description": "", "include_deferred": False}
    airflow.ask("POST", "pools", json=pool).raise_for_status()
    run = begin("autoscaled")
    pods = run.wait_running()
    airflow.ask("PATCH", "pools/autoscaled", json={**pool, "slots": 0}).raise_for_status()
    run.wait_state("scheduled", run.steps)
    for pod in pods:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        admin.core.delete_namespaced_pod(name, namespace, grace_period_seconds=0)
    airflow.wait_for(lambda: not run.census.there(run.run), "pods that are gone", run.describe)
    airflow.ask("PATCH", "pools/autoscaled", json=pool).raise_for_status()
    run.settle("The node is removed once the steps are over, before their workers come", log="Submitted: ")


@pytest.mark.skipif(not IS_FULL, reason="takes minutes: make faults")
def test_the_node_is_lost(begin, admin, parts):
    run = begin("node_lost")
    run.wait_running()
    node = cluster.only_node(admin.core)
    taint = {"key": "stepop.test/lost", "effect": "NoExecute"}  # "unreachable" is tolerated for 300 s
    admin.core.patch_node(node, {"spec": {"taints": [taint]}})
    run.wait_jobs(2 * run.steps)  # each step has lost its pod and was submitted again
    admin.core.patch_node(node, {"spec": {"taints": None}})
    run.settle("The node is tainted (NoExecute)", log="resubmitting (1 of 3)", generations=2)


@pytest.fixture
def other_node(admin):
    """A node that answers and runs nothing.

    If no node of a cluster answers, Kubernetes evicts no pods, since the fault is more likely the cluster's
    own.
    """
    name = f"stepop-faults-{uuid.uuid4().hex[:6]}"
    lease = {"metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}}
    is_over = threading.Event()
    taint = {"key": "stepop.test/other", "effect": "NoSchedule"}
    admin.core.create_node({"metadata": {"name": name}, "spec": {"taints": [taint]}})
    admin.leases.create_namespaced_lease("kube-node-lease", lease)

    def answer():
        """Answer as a kubelet does. A node that was late becomes ready only through its own report."""
        admin.leases.patch_namespaced_lease(name, "kube-node-lease", {"spec": {"renewTime": cluster.now()}})
        cluster.say_ready(admin.core, name)

    def answer_on():
        while not is_over.wait(2):
            with suppress(Exception):  # the API server may be briefly away
                answer()

    answer()
    thread = threading.Thread(target=answer_on, daemon=True)
    thread.start()
    yield name
    is_over.set()
    thread.join()
    admin.core.delete_node(name)
    has_status(404, partial(admin.leases.delete_namespaced_lease, name, "kube-node-lease"))


@pytest.mark.skipif(not IS_FULL, reason="takes minutes: make faults")
def test_the_node_does_not_answer(begin, parts, other_node):
    """The node's pods may still run, and here they do. No step is submitted again before they are over."""
    run = begin("unreachable")
    run.wait_running()
    parts.send("kubelet", signal.SIGSTOP)
    try:
        run.airflow.wait_for(
            lambda: all("deletionTimestamp" in pod["metadata"] for pod in run.census.running(run.run)),
            "pods that are to be removed",
            run.describe,
        )
        time.sleep(15)  # nothing may change in this time; a slow machine only weakens the test
        assert len(run.census.running(run.run)) == run.steps
        assert len(run.census.jobs(run.run)) == run.steps
    finally:
        parts.send("kubelet", signal.SIGCONT)
    title = "The node does not answer, its pods are to be removed, and it comes back"
    # the second job's trigger has begun the log of the first one anew
    run.settle(title, log="resubmitting (1 of 3)", generations=2)


# -- other deployments, lost namespaces and clusters


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
def test_another_deployment_sweeps_the_same_namespace(begin, airflow, connections, tmp_path):
    run = begin("two")
    run.wait_running()
    env = {**connections, "AIRFLOW__STEPOP__DEPLOYMENT": "another"}
    other = deployment.Deployment(tmp_path / "other", airflow.dags, env)
    other.run("db", "migrate")
    other.run("stepop", "sweep", "--yes", "--min-age", "0", "--conn-id", "kubernetes_default")
    other.client.close()
    assert len(run.census.running(run.run)) == run.steps
    run.settle("Another deployment sweeps the same namespace", log="Submitted: ")


@pytest.mark.skipif(not IS_FULL, reason="part of the long form: make faults")
def test_the_namespace_is_deleted(begin, admin, namespaces):
    """The tasks fail soon, with a message, instead of retrying for ten minutes as for transient errors."""
    run = begin("namespace")
    run.wait_running()
    began = time.monotonic()
    admin.core.delete_namespace(namespaces["doomed"])
    run.wait_state("failed", run.steps)
    assert time.monotonic() - began < PATIENCE_S, "trouble is sat out for longer"
    # Airflow's permissions in the namespace are gone, too
    run.settle("The namespace is deleted", state="failed", log="is forbidden")


@pytest.mark.skipif(not IS_FULL, reason="removes all that the cluster has: make faults")
def test_the_cluster_is_made_anew(begin, admin, parts, namespaces, token_config):
    """All objects are lost, and the administrators give Airflow another token."""
    run = begin("etcd")
    run.wait_running()
    parts.down()
    parts.up()
    admin.core.create_namespace({"metadata": {"name": namespaces["token"]}})
    token_config.write_text(json.dumps(cluster.kubeconfig(namespaces["token"])))
    run.wait_state("failed", run.steps)
    run.settle("All that the cluster has stored (etcd) is lost", state="failed", log="the job is gone")


# -- the page


def test_the_page_shows_what_was_measured(request, table):
    if request.config.getoption("--write-fault-table", default=False):
        assert IS_FULL, "the page shows the faults in full length: make faults"
        table.write()
    shown = {line.split(" | ")[0] for line in table_of(PAGE.read_text()).splitlines()}
    faults = {str(row).split(" | ")[0] for row in table.rows} if IS_FULL else set()
    assert faults <= shown, "run make faults"
