"""Checks the permissions of Airflow's account in a namespace, and the namespace's quotas and limits.

``KubernetesStepHook.check`` runs these checks for ``airflow stepop check``. The functions that take a
:class:`Cluster` send requests; the others are pure. docs/backends/kubernetes.md has the Role of
:data:`NEEDED`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_stepop.hooks.common.checks import Check
from airflow_stepop.hooks.kubernetes.cluster import message_of, status_of
from airflow_stepop.hooks.kubernetes.resources import amount_of
from airflow_stepop.job import Finding

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.cluster import Cluster
    from airflow_stepop.hooks.kubernetes.objects import Json

NAME = "airflow-stepop"  # of the Role and of the RoleBinding
# (API group, resource) -> verbs that the hook uses
NEEDED: Mapping[tuple[str, str], Sequence[str]] = {
    ("batch", "jobs"): ("create", "get", "list", "watch", "patch", "delete"),
    ("", "secrets"): ("create", "get"),
    ("", "pods"): ("list", "watch"),
    ("", "events"): ("list",),
    ("", "pods/log"): ("get",),
}
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
WHO_AM_I = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
ACCOUNT = "system:serviceaccount:"  # prefix of the user name of a service account

# The resources that every step takes from a quota. Others are taken by steps that ask for them
# https://kubernetes.io/docs/concepts/policy/resource-quotas/
_COUNTS = ("pods", "secrets", "count/pods", "count/secrets", "count/jobs.batch")
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_SIDES = ("requests.", "limits.")
_NOT_OURS = "NotTerminating"  # scope of pods without a deadline; every step's pod has a deadline


def access_checks(cluster: Cluster) -> Iterator[Check]:
    """Yield the checks: does the namespace exist, may Airflow run steps there, what are the limits there."""
    fix, prefix = "check the connection, and try again", f"{cluster.host} does not answer this question: "
    # without the namespace, the other checks would have no meaning
    yield Check("namespace", lambda: _account(cluster), fix, prefix, is_needed=True)
    yield Check("permissions", lambda: _permissions(cluster), fix, prefix)
    yield Check("quotas", lambda: _quotas(cluster), fix, prefix)
    yield Check("limit ranges", lambda: _limit_ranges(cluster), fix, prefix)


def _account(cluster: Cluster) -> Iterator[Finding]:
    """Check that the cluster accepts the connection's account, and that the namespace exists."""
    try:
        yield from _namespace(cluster)
    except Exception as error:
        if status_of(error) != 401:
            raise
        message = f"{cluster.host} does not accept the connection's account: {message_of(error)}"
        yield Finding(False, "account", message, "renew the token or the certificate of the connection")


def _namespace(cluster: Cluster) -> Iterator[Finding]:
    """Check that the namespace exists; yield nothing if the account may not read namespaces."""
    name = cluster.namespace
    try:
        found = cluster.get_namespace()
    except Exception as error:
        if status_of(error) == 403:  # steps do not need this permission
            return
        raise
    if found is None:
        fix = f"kubectl create namespace {name}, or name another one in the connection"
        yield Finding(False, "namespace", f"there is no namespace {name!r}", fix)
    elif found.get("status", {}).get("phase") == "Terminating":
        fix = "wait until it is gone and create it again, or name another one in the connection"
        yield Finding(False, "namespace", f"the namespace {name!r} is being deleted", fix)
    else:
        yield Finding(True, "namespace", f"steps run in the namespace {name!r}, which exists")


# -- permissions


def _permissions(cluster: Cluster) -> Iterator[Finding]:
    missing = {resource: verbs for group, resource in NEEDED if (verbs := _refused(cluster, group, resource))}
    if not missing:
        yield Finding(
            True, "permissions", f"Airflow may do everything that steps need in {cluster.namespace!r}"
        )
        return
    user = _user(cluster)
    listed = "; ".join(f"{', '.join(verbs)} {resource}" for resource, verbs in missing.items())
    yield Finding(
        False,
        "permissions",
        f"{user or 'Airflow'} may not, in {cluster.namespace!r}: {listed}",
        f"have an administrator apply this with kubectl apply -f:\n{role_yaml(cluster.namespace, user)}",
    )


def _refused(cluster: Cluster, group: str, resource: str) -> list[str]:
    return [
        verb
        for verb in NEEDED[group, resource]
        if not _may(cluster, review(cluster.namespace, group, resource, verb))
    ]


def review(namespace: str, group: str, resource: str, verb: str) -> Json:
    """Return the SelfSubjectAccessReview for one verb; every account may send this request.

    :param resource: such as ``pods``, or with a subresource ``pods/log``
    """
    kind, _, part = resource.partition("/")
    attributes = {"namespace": namespace, "group": group, "resource": kind, "verb": verb}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {**attributes, **({"subresource": part} if part else {})}},
    }


def _may(cluster: Cluster, question: Json) -> bool:
    return bool(cluster.request("POST", REVIEWS, question).get("status", {}).get("allowed"))


def _user(cluster: Cluster) -> str:
    """Return the user name of Airflow's account; empty if the cluster has no such API (before 1.28)."""
    question = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        found = cluster.request("POST", WHO_AM_I, question)
        return str(found["status"]["userInfo"]["username"])
    except Exception:  # noqa: BLE001, RUF100 - the check works without the name
        return ""


def role_yaml(namespace: str, user: str) -> str:
    """Return as YAML the complete Role that steps need, and its binding to ``user``.

    Applying the Role replaces an older version of it.

    :param user: as the cluster names the account; empty: the binding has placeholders and a comment
    """
    import yaml

    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": NAME, "namespace": namespace},
        "rules": [
            {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
            for (group, resource), verbs in NEEDED.items()
        ],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": NAME, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
        "subjects": [_subject(user)],
    }
    texts = [
        yaml.safe_dump(one, sort_keys=False, default_flow_style=None, width=200) for one in (role, binding)
    ]
    hint = "" if user else "# insert Airflow's account on this cluster: the cluster does not tell its name\n"
    return f"{texts[0]}---\n{hint}{texts[1]}".rstrip()


def _subject(user: str) -> Json:
    if user and not user.startswith(ACCOUNT):
        return {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}
    namespace, _, name = user.removeprefix(ACCOUNT).partition(":")
    return {"kind": "ServiceAccount", "namespace": namespace or "NAMESPACE", "name": name or "ACCOUNT"}


# -- quotas and limit ranges


def _quotas(cluster: Cluster) -> Iterator[Finding]:
    quotas = _list(cluster, "resourcequotas")
    if quotas is None:
        yield _unseen("quotas")
    for quota in quotas or ():
        yield quota_finding(quota)
    if quotas and (demand := demands(quotas, _list(cluster, "limitranges") or ())):
        yield Finding(True, "quotas", demand)


def _limit_ranges(cluster: Cluster) -> Iterator[Finding]:
    ranges = _list(cluster, "limitranges")
    if ranges is None:
        yield _unseen("limit ranges")
    for limits in ranges or ():
        if rules := limits_of(limits):
            name = limits["metadata"]["name"]
            yield Finding(True, "limit ranges", f"{name!r}: {'; '.join(rules)}")


def _list(cluster: Cluster, kind: str) -> list[Json] | None:
    """Return the objects of a kind; ``None`` when Airflow's account may not list this kind."""
    try:
        return list(cluster.list(kind))
    except Exception as error:
        if status_of(error) == 403:
            return None
        raise


def _unseen(what: str) -> Finding:
    resource = {"quotas": "resourcequotas", "limit ranges": "limitranges"}[what]
    message = f"not checked: Airflow may not list {resource}; steps do not need this permission"
    return Finding(True, what, message)


def quota_finding(quota: Json) -> Finding:
    """Return how much of a quota is used; not ok when a resource that steps take is used up."""
    name, status = quota["metadata"]["name"], quota.get("status") or {}
    hard = _hard(quota)
    used = status.get("used") or {}
    amounts = [f"{used.get(what, '0')} of {limit} {what}" for what, limit in sorted(hard.items())]
    scopes = _scopes(quota)
    of = f" (of pods that are {', '.join(scopes)})" if scopes else ""
    message = f"{name!r}{of}: {', '.join(amounts) or 'it limits nothing'}"
    empty = [] if _NOT_OURS in scopes else used_up(hard, used)
    if not empty:
        return Finding(True, "quotas", message)
    return Finding(
        False,
        "quotas",
        f"{message}. Used up: {', '.join(empty)}",
        "wait for other pods to end, delete kept jobs (airflow stepop jobs), or have the quota raised",
    )


def demands(quotas: Sequence[Json], ranges: Sequence[Json]) -> str:
    """Return what the quotas demand of every step; empty if a step need not ask for anything.

    With a quota of cpu or memory, the API server refuses a container that does not ask for it, unless a limit
    range has a default. https://kubernetes.io/docs/concepts/policy/resource-quotas/
    """
    given = {what for one in ranges for what in _defaults(one)}
    hard = {what: quota for quota in quotas if _NOT_OURS not in _scopes(quota) for what in _hard(quota)}
    wanted: dict[str, str] = {}
    for what, quota in hard.items():
        side, _, bare = what.rpartition(".")
        if (
            bare in _ARGUMENTS
            and side in ("", "requests", "limits")
            and f"{side or 'requests'}.{bare}" not in given
        ):
            wanted.setdefault(bare, quota["metadata"]["name"])
    if not wanted:
        return ""
    names = " and ".join(sorted(wanted))
    arguments = " and ".join(_ARGUMENTS[bare] for bare in sorted(wanted))
    listed = ", ".join(map(repr, sorted(set(wanted.values()))))
    return (
        f"{listed} demands {names} of every step: set {arguments} in resource_settings, of each task or in "
        "the connection. Sidecars and init containers need them, too"
    )


_ARGUMENTS = {"cpu": "cpu_count", "memory": "memory"}  # resource -> argument of a task that asks for it


def _defaults(limits: Json) -> Iterator[str]:
    """Yield the amounts that a LimitRange gives to a container without them, such as ``requests.cpu``."""
    for one in limits.get("spec", {}).get("limits") or ():
        if one.get("type") == "Container":
            default = one.get("default") or {}
            yield from (f"limits.{what}" for what in default)
            yield from (f"requests.{what}" for what in {**default, **(one.get("defaultRequest") or {})})


def _hard(quota: Json) -> Json:
    status: Json = quota.get("status") or {}
    found: Json = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}
    return found


def used_up(hard: Mapping[str, str], used: Mapping[str, str]) -> list[str]:
    """Return the resources of a quota that steps take and that are used up.

    A limit of zero on a resource that only some steps ask for, such as GPUs, is a rule: the resource does not
    count as used up.
    """
    return [
        what
        for what, limit in sorted(hard.items())
        if _is_of_steps(what)
        and amount_of(used.get(what, "0")) >= amount_of(limit)
        and (amount_of(limit) > 0 or _is_of_every_step(what))
    ]


def _is_of_every_step(what: str) -> bool:
    bare = what
    for side in _SIDES:
        bare = bare.removeprefix(side)
    return what in _COUNTS or bare in _COMPUTE


def _is_of_steps(what: str) -> bool:
    return _is_of_every_step(what) or (what.startswith(_SIDES) and "storage" not in what)


def _scopes(quota: Json) -> list[str]:
    spec = quota.get("spec") or {}
    more = (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    words = [" ".join([one["scopeName"], one["operator"], *(one.get("values") or ())]) for one in more]
    return [*(spec.get("scopes") or ()), *words]


_RULES = (
    ("min", "a step has at least"),
    ("max", "a step has at most"),
    ("defaultRequest", "the default request of a step is"),
    ("default", "the default limit of a step is"),
)


def limits_of(limits: Json) -> list[str]:
    """Return what a LimitRange refuses or adds, as sentences; empty when the range does not apply to pods."""
    rules = []
    for one in limits.get("spec", {}).get("limits") or ():
        if one.get("type") not in ("Pod", "Container"):
            continue
        for key, words in _RULES:
            if amounts := one.get(key):
                listed = ", ".join(f"{what} {amount}" for what, amount in sorted(amounts.items()))
                rules.append(f"{words} {listed}")
    return list(dict.fromkeys(rules))
