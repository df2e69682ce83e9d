"""The JSON that is sent to the cluster; ``golden/`` has whole Jobs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.common.input_files import InputFile
from airflow_stepop.hooks.kubernetes.manifests import (
    LABEL_RULES,
    default_image,
    job_labels,
    job_manifest,
    release,
    secret_manifest,
)
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.job import StepSpec
from airflow_stepop.resources import ResourceSettings

GOLDEN = Path(__file__).parent / "golden"
LABELS = {
    "deployment": "",
    "dag_id": "d",
    "run_id": "manual__1",
    "task_id": "t",
    "map_index": "-1",
    "nonce": "n",
}


def job(resources=None, settings=None, **fields):
    wanted = ResourceSettings(**(resources or {}))
    given = {"name": "s-train", "nonce": "n", "labels": LABELS, "digest": "d1", "image": "python:3.11-slim"}
    spec = StepSpec(**{**given, "resources": wanted, **fields})
    return job_manifest(spec, parse_settings(KubernetesSettings, settings, "kubernetes"))


def pod(**options):
    return job(**options)["spec"]["template"]["spec"]


def container(**options):
    return pod(**options)["containers"][0]


CASES = {
    "plain": {},
    "everything": {
        "resources": {
            "cpu_count": 1.5, "memory": "32GB", "gpu_count": 2, "gpu_type": "A100", "disk": "100GiB",
            "shm": "8Gi",
        },
        "env": {"A": "$(HOME) costs $5"},
        "timeout_s": 3600.0,
        "start_timeout_s": 600.0,
        "result_uri": "s3://bucket/results/x",
        "settings": {
            "namespace": "ml", "service_account_name": "trainer", "image_pull_secrets": ["registry"],
            "spot": True,
            "node_selector": {"pool": "gpu"}, "queue_name": "team-a", "labels": {"team": "a"},
            "tolerations": [{"key": "x", "operator": "Exists"}],
            "volumes": [{"name": "data", "persistent_volume_claim": {"claim_name": "data"}}],
            "volume_mounts": [{"name": "data", "mountPath": "/data", "read_only": True}],
            "env_from": [{"secretRef": {"name": "keys"}}],
            "sidecars": [{"name": "proxy", "image": "proxy:1"}],
            "container_security_context": {"run_as_user": 1000},
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_golden(name):
    """To update a golden file: delete it, run this test once, and review the new file."""
    path, found = GOLDEN / f"{name}.json", job(**CASES[name])
    if not path.exists():
        path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
        pytest.fail(f"{path} is new: read it")
    assert found == json.loads(path.read_text())


def test_the_image_has_the_python_of_the_worker():
    assert default_image() == f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
    assert container(image=None)["image"] == default_image()


@pytest.mark.parametrize(
    ("resources", "amounts"),
    [
        ({"memory": "32GB"}, {"memory": "32G"}),
        ({"memory": "32GiB"}, {"memory": "32Gi"}),
        ({"memory": "1.5GiB"}, {"memory": "1610612736"}),
        ({"memory": "500KB"}, {"memory": "500k"}),
        ({"cpu_count": 2}, {"cpu": "2"}),
        ({"cpu_count": 0.25}, {"cpu": "250m"}),
        ({"gpu_count": 1}, {"nvidia.com/gpu": "1"}),
        ({"disk": "10GB"}, {"ephemeral-storage": "10G"}),
    ],
)
def test_requests_are_limits(resources, amounts):
    assert container(resources=resources)["resources"] == {"requests": amounts, "limits": amounts}


def test_own_requests_are_added_and_must_not_contradict_the_resources():
    settings = {"resources": {"requests": {"example.com/fpga": 1}}}
    needs = container(resources={"cpu_count": 1}, settings=settings)["resources"]
    assert needs == {"requests": {"cpu": "1", "example.com/fpga": 1}, "limits": {"cpu": "1"}}
    with pytest.raises(StepConfigError, match=r"memory='1Gi' contradicts .* '2Gi'"):
        container(resources={"memory": "2GiB"}, settings={"resources": {"limits": {"memory": "1Gi"}}})


@pytest.mark.parametrize(
    ("resources", "amounts"),
    [
        ({"cpu_count": 0.1}, {"cpu": 0.1}),
        ({"cpu_count": 0.1}, {"cpu": "100m"}),
        ({"cpu_count": 0.3}, {"cpu": "300000u"}),
        ({"cpu_count": 2}, {"cpu": "2000m"}),
        ({"cpu_count": 2}, {"cpu": 2.0}),
        ({"cpu_count": 1.5}, {"cpu": ".15e1"}),
        ({"memory": "1GiB"}, {"memory": "1024Mi"}),
        ({"memory": "1GiB"}, {"memory": 1073741824}),
        ({"memory": "2GB"}, {"memory": "2e9"}),
        ({"memory": "1.5GiB"}, {"memory": "1536Mi"}),
        ({"disk": "1000GB"}, {"ephemeral-storage": "1T"}),
        ({"gpu_count": 1}, {"nvidia.com/gpu": 1}),
    ],
)
@pytest.mark.parametrize("side", ["requests", "limits"])
def test_equal_amounts_are_no_contradiction(resources, amounts, side):
    needs = container(resources=resources, settings={"resources": {side: amounts}})["resources"]
    assert needs[side] == amounts
    assert set(needs) == {"requests", "limits"}


@pytest.mark.parametrize(
    ("resources", "amounts", "text"),
    [
        ({"memory": "1GB"}, {"memory": "1Gi"}, "memory='1Gi' contradicts resource_settings, which give '1G'"),
        ({"cpu_count": 0.1}, {"cpu": "101m"}, "cpu='101m' contradicts .* '100m'"),
        ({"memory": "1GB"}, {"memory": "1GB"}, "memory: '1GB' is no quantity of Kubernetes, such as '1G'"),
        ({"cpu_count": 1}, {"cpu": ""}, "cpu: '' is no quantity of Kubernetes, such as '1'"),
        ({"cpu_count": 1}, {"cpu": "1e999"}, "cpu: '1e999' is no quantity"),
        ({"cpu_count": 1}, {"cpu": None}, "cpu: None is no quantity"),
    ],
)
def test_other_amounts_are_one(resources, amounts, text):
    with pytest.raises(StepConfigError, match=text):
        container(resources=resources, settings={"resources": {"limits": amounts}})


def test_the_cluster_expands_nothing_in_the_values_of_variables():
    env = {one["name"]: one.get("value") for one in container(env={"A": "$(B)", "B": "$$ $x"})["env"]}
    assert env["A"] == "$$(B)"
    assert env["B"] == "$$ $x"


def test_a_gpu_of_a_kind_is_found_by_the_labels_of_every_platform():
    terms = pod(resources={"gpu_count": 1, "gpu_type": "T4"})["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    found = {one["key"]: one["values"] for term in terms for one in term["matchExpressions"]}
    assert "nvidia-tesla-t4" in found["cloud.google.com/gke-accelerator"]
    assert "Tesla-T4" in found["nvidia.com/gpu.product"]


def test_the_user_s_own_affinity_holds_as_well():
    own = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    affinity = {
        "node_affinity": {
            "required_during_scheduling_ignored_during_execution": {"node_selector_terms": [own]}
        }
    }
    terms = pod(settings={"spot": True, "affinity": affinity})["affinity"]["nodeAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]["nodeSelectorTerms"]
    assert len(terms) == 4
    assert all("zone" in [one["key"] for one in term["matchExpressions"]] for term in terms)


def test_what_a_template_tolerates_and_wants_holds_beside_our_own():
    own = {"key": "dedicated", "value": "ml", "effect": "NoSchedule"}
    pool = {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["ml"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [pool]}}
    spec = {"tolerations": [own], "affinity": {"nodeAffinity": required}}
    found = pod(resources={"gpu_count": 1, "gpu_type": "T4"}, settings={"pod_template": {"spec": spec}})
    assert [one["key"] for one in found["tolerations"]] == ["dedicated", "nvidia.com/gpu"]
    (terms,) = found["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"].values()
    assert terms
    assert all("pool" in [one["key"] for one in term["matchExpressions"]] for term in terms)


@pytest.mark.parametrize(("others", "bytes_left"), [(0, 1755), (1, 1536), (20, 455)])
def test_the_receipt_has_room_in_the_container_s_share_of_the_messages(others, bytes_left):
    settings = {"init_containers": [{"name": f"i{number}"} for number in range(others)]}
    args = container(settings=settings)["args"]
    assert args[args.index("--receipt-limit") + 1] == str(bytes_left)


def of_step(**fields):
    """Return settings whose pod template has a container ``step`` with these fields."""
    return {"pod_template": {"spec": {"containers": [{"name": "step", **fields}]}}}


TEMPLATE = """\
apiVersion: v1
kind: Pod
metadata:
  annotations: {a: b}
spec:
  hostNetwork: true
  volumes: [{name: data, emptyDir: {}}]
  containers:
    - {name: step, image: "ours:1", volumeMounts: [{name: data, mountPath: /data}]}
    - {name: helper, image: "helper:1"}
"""


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"tolerations": [{"kee": "x"}]},
            r"tolerations\[0\] has no 'kee'; did you mean 'key'\? \(valid: effect, key",
        ),
        ({"volumes": [{"name": "v", "pvc": {}}]}, r"volumes\[0\] has no 'pvc'"),
        ({"affinity": {"nodeAffinity": {}, "node_affinity": {}}}, "in two spellings"),
        (
            {"volumes": [{"name": "v", "secret": {"secretNam": "x"}}]},
            r"volumes\[0\].secret has no 'secretNam'",
        ),
        ({"affinity": []}, "must be a mapping"),
        ({"pod_template": {"specs": {}}}, "specs"),
        ({"pod_template": "/nowhere.yaml"}, "neither YAML of several lines nor the path of a file"),
        (
            {"pod_template": {"spec": {"containers": [{"name": "step", "enviroment": []}]}}},
            "has no 'enviroment'; did you mean 'env'",
        ),
        (
            {"pod_template": {"spec": {"containers": [{"name": "base"}, {"name": "helper"}]}}},
            "has the containers 'base', 'helper' and none called 'step': call the step's container 'step'",
        ),
        ({"pod_template": {"metadata": {"namespace": "n"}, "spec": {}}}, "namespace='n': leave it out"),
        (of_step(command=["true"]), r"command=\['true'\]: leave it out, the task decides what runs"),
        (of_step(args=["x"]), "args=.*: leave it out"),
        (of_step(terminationMessagePath="/x"), "terminationMessagePath='/x': leave it out"),
        ({"pod_template": {"activeDeadlineSeconds": 5, "hostNetwork": True}}, "timeout= is the limit"),
        ({"pod_template": {"restartPolicy": "Always"}}, "restartPolicy='Always': .* retries="),
        ({"pod_template": {"terminationGracePeriodSeconds": 0}}, "run twice; use 1 or more"),
        ({"pod_template": {"terminationGracePeriodSeconds": None}}, "must be a number of seconds"),
        ({"pod_template": {"terminationGracePeriodSeconds": "60"}}, "='60': it must be a number of seconds"),
        ({"termination_grace_period_seconds": 0}, "greater than or equal to 1"),
        ({"pod_template": {"spec": {"volumes": [{"emptyDir": {}}]}}}, "volumes .* an entry has no 'name'"),
        (
            {**of_step(env=[{"name": "A", "value": "1"}]), "env": [{"value": "1"}]},
            "env .* an entry has no 'name': {'value': '1'}",
        ),
        ({"active_deadline_seconds": 5}, "contradicts timeout=86400"),
        ({"image_pull_policy": "Always", "node_selectr": {}}, "did you mean 'node_selector'"),
    ],
)
def test_a_mistake_in_the_settings_is_reported(settings, text):
    with pytest.raises(StepConfigError, match=text):
        job(settings=settings)


def test_nodes_are_refused():
    with pytest.raises(UnsupportedError, match="nodes=2"):
        job(resources={"nodes": 2})


def test_camel_case_works_at_the_top_as_well():
    assert pod(settings={"nodeSelector": {"a": "b"}}) == pod(settings={"node_selector": {"a": "b"}})


def test_a_template_is_the_base_of_the_pod(tmp_path):
    path = tmp_path / "pod.yaml"
    path.write_text(TEMPLATE)
    for template in (str(path), TEMPLATE):
        made = job(settings={"pod_template": template})["spec"]["template"]
        assert made["metadata"]["annotations"]["a"] == "b"
        spec = made["spec"]
        assert spec["hostNetwork"] is True
        assert [one["name"] for one in spec["volumes"]] == ["data", "stepop-in", "stepop-out"]
        step, helper = spec["containers"]
        assert step["image"] == "python:3.11-slim"
        assert [one["mountPath"] for one in step["volumeMounts"]] == ["/data", "/stepop/in", "/stepop/out"]
        assert helper == {"name": "helper", "image": "helper:1"}


def test_what_is_not_set_comes_from_the_template():
    def made(image=None, **settings):
        spec = pod(image=image, settings={"pod_template": {"spec": under}, **settings})
        return (
            spec["containers"][0]["image"],
            spec["terminationGracePeriodSeconds"],
            spec["enableServiceLinks"],
            spec["automountServiceAccountToken"],
        )

    under = {"hostNetwork": True}
    assert made() == (default_image(), 30, False, False)
    under = {
        "containers": [{"name": "step", "image": "ours:1"}],
        "terminationGracePeriodSeconds": 120,
        "enableServiceLinks": True,
        "serviceAccountName": "robot",
    }
    assert made() == ("ours:1", 120, True, True)
    assert made(image="mine:1", termination_grace_period_seconds=5)[:2] == ("mine:1", 5)
    under["automountServiceAccountToken"] = False
    assert made()[3] is False


def test_objects_of_the_official_client_are_taken_as_they_are():
    client = pytest.importorskip("kubernetes.client")
    mount = client.V1VolumeMount(name="data", mount_path="/data")
    volume = client.V1Volume(name="data", host_path=client.V1HostPathVolumeSource(path="/data"))
    spec = pod(settings={"volumes": [volume], "volume_mounts": [mount]})
    assert spec["volumes"][0] == {"name": "data", "hostPath": {"path": "/data"}}
    assert spec["containers"][0]["volumeMounts"][0] == {"name": "data", "mountPath": "/data"}


def client_pod():
    """Return a whole pod of the official client, as tutorials write it."""
    client = pytest.importorskip("kubernetes.client")
    step = client.V1Container(name="step", image="ours:1", env=[client.V1EnvVar(name="A", value="1")])
    spec = client.V1PodSpec(containers=[step], host_ipc=True)
    metadata = client.V1ObjectMeta(name="x", labels={"team": "a"})
    return client, metadata, spec


def test_a_whole_pod_of_the_official_client_is_a_template():
    client, metadata, spec = client_pod()
    pods = [
        client.V1Pod(api_version="v1", kind="Pod", metadata=metadata, spec=spec),
        client.V1Pod(metadata=metadata, spec=spec, status=client.V1PodStatus(phase="Pending")),
        client.V1PodTemplateSpec(metadata=metadata, spec=spec),
        client.V1PodTemplate(
            api_version="v1", kind="PodTemplate", template=client.V1PodTemplateSpec(metadata, spec)
        ),
        {"template": client.V1PodTemplateSpec(metadata, spec)},
        {"metadata": metadata, "spec": spec},
    ]
    for one in pods:
        made = job(image=None, settings={"pod_template": one})["spec"]["template"]
        assert made["metadata"]["labels"]["team"] == "a"
        assert made["spec"]["hostIPC"] is True
        assert made["spec"]["containers"][0]["image"] == "ours:1"


# what kubectl 1.34 prints for: kubectl run step --image=ours:1 --restart=Never --dry-run=client -o yaml
KUBECTL_RUN = """\
apiVersion: v1
kind: Pod
metadata:
  labels:
    run: step
  name: step
spec:
  containers:
  - image: ours:1
    name: step
    resources: {}
  dnsPolicy: ClusterFirst
  restartPolicy: Never
status: {}
"""
# what the cluster adds to it, in: kubectl get pod step -o yaml
OF_THE_CLUSTER = """
  creationTimestamp: 2026-01-01T00:00:00Z
  generation: 1
  managedFields: [{manager: kubectl-run, operation: Update, fieldsV1: {"f:spec": {}}}]
  resourceVersion: "1"
  uid: 2b6a
"""


@pytest.mark.parametrize(
    "text",
    [
        KUBECTL_RUN,
        KUBECTL_RUN.replace("metadata:", "metadata:\n  creationTimestamp: null"),
        KUBECTL_RUN.replace("metadata:", f"metadata:{OF_THE_CLUSTER.rstrip()}").replace(
            "status: {}", "status: {phase: Running, podIP: 10.0.0.1}"
        ),
    ],
    ids=["run", "older", "get"],
)
def test_what_kubectl_prints_is_a_template(text):
    made = job(image=None, settings={"pod_template": text})["spec"]["template"]
    assert made["spec"]["containers"][0]["image"] == "ours:1"
    assert set(made["metadata"]) == {"labels", "name", "annotations"}
    assert "status" not in made
    json.dumps(made)


def test_an_unknown_key_is_still_named():
    *_, spec = client_pod()
    with pytest.raises(StepConfigError, match=r"pod_template has no 'replicas' \(valid: apiVersion, kind,"):
        job(settings={"pod_template": {"spec": spec, "replicas": 3}})
    with pytest.raises(StepConfigError, match="pod_template is no pod: 5"):
        job(settings={"pod_template": {"template": 5}})


@pytest.mark.parametrize(
    "text", ["", "d", "a.b_c-d", "x" * 63, "manual__2026-01-01T00:00:00+00:00", "ü/é", "x" * 200]
)
def test_any_text_becomes_the_value_of_a_label(text):
    value = LABEL_RULES.encode(text)
    assert len(value) <= 63
    assert value == LABEL_RULES.encode(value)
    assert (value == text) == (
        len(text) <= 63 and all((c.isalnum() and c.isascii()) or c in "._-" for c in text)
    )


def test_different_texts_have_different_labels():
    texts = ["ü", "é", "a+b", "a b", "x" * 100, "x" * 101]
    assert len({LABEL_RULES.encode(text) for text in texts}) == len(texts)
    assert job_labels({"dag_id": "d"}) == {
        "app.kubernetes.io/managed-by": "airflow-stepop",
        "airflow-stepop/dag-id": "d",
    }


def test_the_input_is_in_an_immutable_secret_of_the_job():
    made = {"metadata": {"name": "s-1", "uid": "u", "labels": {}}}
    secret = secret_manifest(made, "d1", {"secrets.json": InputFile([b"to", b"ken"], is_secret=True)})
    assert secret["data"] == {"secrets.json": "dG9rZW4="}
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert secret["immutable"] is True


def test_a_job_in_a_queue_is_started_by_the_queue():
    assert release("u", "d", None)["spec"]["suspend"] is False
    queued = release("u", "d", "team-a")
    assert "suspend" not in queued["spec"]
    assert queued["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}
