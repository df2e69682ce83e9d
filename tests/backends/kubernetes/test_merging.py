"""A template and the task's own settings: fields that exclude each other are replaced, never mixed."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.kubernetes.manifests import job_manifest
from airflow_stepop.hooks.kubernetes.objects import merged
from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.job import StepSpec


def pod(task_env=None, **settings):
    spec = StepSpec(name="s-1", nonce="n", labels={}, digest="d", env=task_env or {})
    made = job_manifest(spec, parse_settings(KubernetesSettings, settings, "kubernetes"))
    return made["spec"]["template"]["spec"]


def env_of(spec):
    """Return the variables of the user, in the order in which the cluster gets them."""
    return [one for one in spec["containers"][0]["env"] if not one["name"].startswith("STEPOP_")]


def template(**fields):
    return {"spec": {"containers": [{"name": "step", **fields}]}}


SECRET = {"secretKeyRef": {"name": "keys", "key": "token", "optional": True}}
FIELD = {"fieldRef": {"fieldPath": "status.podIP"}}
OTHER = {"secretKeyRef": {"name": "other", "key": "x"}}


@pytest.mark.parametrize(
    ("under", "over"),
    [
        ({"valueFrom": SECRET}, {"value": "plain"}),
        ({"value": "plain"}, {"valueFrom": SECRET}),
        ({"valueFrom": SECRET}, {"valueFrom": FIELD}),
        ({"valueFrom": SECRET}, {"valueFrom": OTHER}),
        ({"value": "one"}, {"value": ""}),
    ],
)
def test_a_variable_has_one_source(under, over):
    first = template(env=[{"name": "A", **under}])
    assert env_of(pod(pod_template=first)) == [{"name": "A", **under}]
    assert env_of(pod(pod_template=first, env=[{"name": "A", **over}])) == [{"name": "A", **over}]


@pytest.mark.parametrize(
    "under",
    [
        [{"name": "A", "value": "template"}],
        [{"name": "A", "valueFrom": SECRET}],
        [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}],
        [],
    ],
)
@pytest.mark.parametrize("between", [[], [{"name": "A", "value": "s"}], [{"name": "A", "valueFrom": FIELD}]])
def test_the_task_s_env_wins_and_stands_there_once(under, between):
    """A list with a name twice is not what anyone means, and clusters warn of it."""
    found = pod({"A": "task"}, pod_template=template(env=under), env=between)
    assert env_of(found) == [{"name": "A", "value": "task"}]


CLAIM = {"persistentVolumeClaim": {"claimName": "data", "readOnly": True}}


@pytest.mark.parametrize(
    ("under", "over", "expected"),
    [
        (CLAIM, {"emptyDir": {}}, {"emptyDir": {}}),
        ({"emptyDir": {"medium": "Memory"}}, {"hostPath": {"path": "/x"}}, {"hostPath": {"path": "/x"}}),
        ({"secret": {"secretName": "s"}}, {"configMap": {"name": "c"}}, {"configMap": {"name": "c"}}),
        ({"csi": {"driver": "d"}}, {"ephemeral": {}}, {"ephemeral": {}}),
        # the same kind is merged, as everything is
        (
            CLAIM,
            {"persistentVolumeClaim": {"claimName": "other"}},
            {"persistentVolumeClaim": {"claimName": "other", "readOnly": True}},
        ),
    ],
)
def test_a_volume_has_one_kind(under, over, expected):
    """With two kinds the cluster refuses the pod."""
    found = pod(
        pod_template={"spec": {"volumes": [{"name": "data", **under}]}}, volumes=[{"name": "data", **over}]
    )
    assert found["volumes"][0] == {"name": "data", **expected}


HTTP, EXEC = {"httpGet": {"port": 80}}, {"exec": {"command": ["true"]}}


@pytest.mark.parametrize(
    ("field", "under", "over", "expected"),
    [
        (
            "livenessProbe",
            {**HTTP, "periodSeconds": 5},
            {"tcpSocket": {"port": 1}},
            {"tcpSocket": {"port": 1}, "periodSeconds": 5},
        ),
        ("startupProbe", {"grpc": {"port": 1}}, EXEC, EXEC),
        ("lifecycle", {"preStop": HTTP}, {"preStop": {"sleep": {"seconds": 1}}},
         {"preStop": {"sleep": {"seconds": 1}}}),
        (
            "securityContext",
            {"runAsUser": 1, "seccompProfile": {"type": "Localhost", "localhostProfile": "x.json"}},
            {"seccompProfile": {"type": "RuntimeDefault"}},
            {"runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
        ),
        (
            "volumeMounts",
            [{"name": "data", "mountPath": "/d", "subPath": "a", "readOnly": True}],
            [{"name": "data", "mountPath": "/d", "subPathExpr": "$(POD)"}],
            [{"name": "data", "mountPath": "/d", "subPathExpr": "$(POD)", "readOnly": True}],
        ),
    ],
)  # fmt: skip
def test_other_fields_of_which_only_one_may_be_set(field, under, over, expected):
    init = {"name": "fetch", field: under}
    found = pod(
        pod_template={"spec": {"initContainers": [init]}}, init_containers=[{"name": "fetch", field: over}]
    )
    assert found["initContainers"] == [{"name": "fetch", field: expected}]


def test_a_resource_claim_has_one_source():
    under, over = {"resourceClaimName": "shared"}, {"resourceClaimTemplateName": "own"}
    found = merged([{"name": "gpu", **under}], [{"name": "gpu", **over}], "resourceClaims")
    assert found == [{"name": "gpu", **over}]


def test_entries_that_share_a_key_are_not_lost():
    spread = [
        {"topologyKey": "zone", "whenUnsatisfiable": rule, "maxSkew": 1}
        for rule in ("DoNotSchedule", "ScheduleAnyway")
    ]
    assert pod(topology_spread_constraints=spread)["topologySpreadConstraints"] == spread
    under = {"spec": {"topologySpreadConstraints": [{**spread[0], "maxSkew": 5}]}}
    found = pod(pod_template=under, topology_spread_constraints=spread)
    assert found["topologySpreadConstraints"] == spread
    kept = pod(pod_template={"spec": {"topologySpreadConstraints": spread}})
    assert kept["topologySpreadConstraints"] == spread
