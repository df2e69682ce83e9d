"""A real Kubernetes cluster for tests: the one that ``KUBECONFIG`` names.

Airflow has the permissions there that the documentation lists, and no others.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.paths import DOCS
from tests.support.waiting import wait_until

PAGE = DOCS / "backends" / "kubernetes.md"
NAME = "airflow-stepop"
# Nobody listens at this address, so each pull fails at once. Where no DNS server answers, looking up a host
# name would take a minute, and a kubelet pulls one image after the other
NO_IMAGE = "127.0.0.1:1/nothing:1"


@contextmanager
def namespace() -> Iterator[str]:
    """Create a namespace and the connection ``kubernetes_default`` to it. Remove both at the end."""
    from kubernetes import client, config

    config.load_kube_config()
    api = client.CoreV1Api()
    name = f"stepop-tests-{uuid.uuid4().hex[:8]}"
    api.create_namespace({"metadata": {"name": name}})
    wait_until(  # a pod needs the account
        lambda: [one.metadata.name for one in accounts(api, name)],
        f"the account of the namespace {name}",
        holds=lambda names: "default" in names,
    )
    variable = "AIRFLOW_CONN_KUBERNETES_DEFAULT"
    extra = {"kube_config": json.dumps(kubeconfig(name)), "namespace": name}
    os.environ[variable] = json.dumps({"conn_type": "kubernetes", "extra": extra})
    try:
        yield name
    finally:
        del os.environ[variable]
        api.delete_namespace(name)


def accounts(core: Any, namespace: str) -> list[Any]:
    return list(core.list_namespaced_service_account(namespace).items)


def may(of: str, verb: str, resource: str, namespace: str = "") -> bool:
    """Return whether the account of the namespace ``of`` has a permission.

    :param resource: with its API group, as in ``jobs.batch``
    :param namespace: where the permission must hold; by default in all namespaces
    """
    from kubernetes import client

    name, _, group = resource.partition(".")
    what = {"verb": verb, "resource": name, "group": group, "namespace": namespace}
    spec = {"user": f"system:serviceaccount:{of}:{NAME}", "resourceAttributes": what}
    review = client.AuthorizationV1Api().create_subject_access_review({"spec": spec})
    return bool(review.status.allowed)


def now() -> str:
    """Return the current time in the API's format."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def only_node(core: Any) -> str:
    """Return the node that runs pods: the only node with a kubelet, which sets the label ``hostname``."""
    found = core.list_node(label_selector="kubernetes.io/hostname,!fake").items
    (name,) = [one.metadata.name for one in found]
    return str(name)


def offer(core: Any, node: str, resource: str, amount: str | None) -> None:
    """Set how much of a resource a node offers; ``None`` removes the resource."""
    room = {resource: amount}
    core.patch_node_status(node, {"status": {"capacity": room, "allocatable": room}})


def say_ready(core: Any, node: str, **status: Any) -> None:
    """Report a node as ready, once. A kubelet reports this again and again; this node has no kubelet."""
    times = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
    ready = {"type": "Ready", "status": "True", "reason": "ByTest", "message": "", **times}
    core.patch_node_status(node, {"status": {"conditions": [ready], **status}})


def allow(namespace: str, of: str) -> None:
    """Give the account of the namespace ``of`` the documented Role in ``namespace``."""
    import yaml
    from kubernetes import client

    rbac = client.RbacAuthorizationV1Api()
    (role,) = re.findall(r"```yaml\n(apiVersion: rbac.*?)```", PAGE.read_text(), re.DOTALL)
    rbac.create_namespaced_role(namespace, yaml.safe_load(role))
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": of}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME}
    binding = {"metadata": {"name": NAME}, "roleRef": reference, "subjects": [subject]}
    rbac.create_namespaced_role_binding(namespace, binding)
    wait_until(lambda: may(of, "create", "jobs.batch", namespace), f"the Role in {namespace} to be heard of")


def new_token(name: str) -> str:
    """Create the account, and return a token for it."""
    from kubernetes import client

    core = client.CoreV1Api()
    core.create_namespaced_service_account(name, {"metadata": {"name": NAME}})
    token = core.create_namespaced_service_account_token(NAME, name, {"spec": {"expirationSeconds": 7200}})
    return str(token.status.token)


def kubeconfig(name: str) -> dict[str, Any]:
    """Return a kubeconfig for an account that has the documented Role."""
    import yaml
    from kubernetes import config

    allow(name, name)
    token = new_token(name)
    _, active = config.list_kube_config_contexts()
    loader = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    (cluster,) = (one for one in loader["clusters"] if one["name"] == active["context"]["cluster"])
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{**cluster, "name": "c"}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
