"""Reads a connection of Airflow's type ``kubernetes``. ``KubernetesStepHook`` calls :func:`connect`.

The fields mean the same as in the provider's ``KubernetesHook``. This module does not use that hook, for two
reasons (decision 0012). Loading the hook costs half a second of CPU in each of a step's two worker sessions,
because the hook imports a second, asynchronous client. And the hook loads the configuration into globals of
the client's module, so that two connections in one process would share one configuration.
"""

from __future__ import annotations

import os
import socket
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_stepop.connections.extra import extra_of
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes.cluster import Cluster
from airflow_stepop.hooks.kubernetes.console import KEY as CONSOLE_URL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Connection
    from kubernetes.client import ApiClient, Configuration

WAYS = ("in_cluster", "kube_config", "kube_config_path")
# https://airflow.apache.org/docs/apache-airflow-providers-cncf-kubernetes/stable/connections/kubernetes.html
FIELDS = (
    *WAYS, "namespace", "cluster_context", "disable_verify_ssl", "disable_tcp_keepalive", CONSOLE_URL,
    "xcom_sidecar_container_image", "xcom_sidecar_container_resources",
)  # fmt: skip
IN_CLUSTER_NAMESPACE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
# TCP keepalive, to notice a connection that a firewall has dropped: seconds of silence before the first
# probe, seconds between two probes, number of probes
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


def connect(connection: Connection | None, context: str | None, namespace: str | None) -> Cluster:
    """Return the API client for a connection.

    :param connection: ``None``: use the account of Airflow's own pod, else the default kubeconfig
    :param context: context of the kubeconfig; ``None``: the connection's
    :param namespace: ``None``: the connection's, else that of the kubeconfig's context, or of Airflow's own
        pod if its account is used, else ``default``
    :raises StepConfigError: the connection has a wrong field, or no valid configuration of a cluster
    """
    from kubernetes.config import ConfigException
    from yaml import YAMLError

    fields = extra_of(connection) if connection is not None else {}
    _check_spelling(fields, connection)
    new_client = partial(_new_client, fields, context or _field(fields, "cluster_context"))
    try:
        client = new_client()
    except (ConfigException, YAMLError, OSError, ValueError, TypeError) as error:
        named = (
            f"connection {connection.conn_id!r}"
            if connection is not None
            else "the default configuration (there is no connection kubernetes_default)"
        )
        missing = " or ".join(map(repr, _missing_files(fields)))
        why = f"there is no file {missing}" if missing else str(error)
        if context is not None:
            named = f"kubernetes_context={context!r} with {named}"
        raise StepConfigError(
            f"{named} leads to no Kubernetes cluster: {why}. Give the connection a kubeconfig "
            "(kube_config: its text; kube_config_path: where it is), or in_cluster where Airflow runs in the "
            "cluster"
        ) from error
    own = namespace or _field(fields, "namespace")
    own = own or _context_namespace(fields, context or _field(fields, "cluster_context"))
    return Cluster(client, own or "default", new_client)


def _missing_files(fields: Mapping[str, object]) -> list[str]:
    """Return the kubeconfig files that were named and do not exist; empty if one exists or none is needed."""
    if _field(fields, "in_cluster") or _field(fields, "kube_config"):
        return []
    paths = kubeconfig_paths(_field(fields, "kube_config_path"))
    return [] if any(os.path.isfile(path) for path in paths) else paths


def kubeconfig_paths(given: str | None) -> list[str]:
    """Return the files of a kubeconfig, as the official client finds them.

    :param given: several paths may be joined with a colon; ``None``: ``KUBECONFIG``, else ``~/.kube/config``
    """
    from kubernetes.config import kube_config

    paths = str(given or kube_config.KUBE_CONFIG_DEFAULT_LOCATION).split(os.pathsep)
    return [os.path.expanduser(path) for path in paths if path]


def _check_spelling(fields: Mapping[str, object], connection: Connection | None) -> None:
    """Refuse a misspelled field, with which steps would run elsewhere. Other keys may serve other tools.

    :raises StepConfigError: a key is similar to a field, but is none
    """
    for name in fields:
        known = name.removeprefix("extra__kubernetes__")
        if known not in FIELDS and (close := get_close_matches(known, FIELDS, n=1, cutoff=0.8)):
            where = f"connection {connection.conn_id!r}" if connection is not None else "the connection"
            raise StepConfigError(
                f"{where} has the unknown field {name!r} in its extra; did you mean {close[0]!r}?"
            )


def _new_client(fields: Mapping[str, Any], context: str | None) -> ApiClient:
    from kubernetes.client import ApiClient, Configuration

    configuration = Configuration()
    _load(configuration, fields, context)
    if _is_true(_field(fields, "disable_verify_ssl")):
        configuration.verify_ssl = False
    if not _is_true(_field(fields, "disable_tcp_keepalive")):
        _keep_alive(configuration)
    return ApiClient(configuration)


def _load(configuration: Configuration, fields: Mapping[str, Any], context: str | None) -> None:
    import yaml
    from kubernetes import config

    ways = [name for name in WAYS if _field(fields, name)]
    if len(ways) > 1:
        raise ValueError(f"its extra has {' and '.join(ways)}; only one of them is allowed")
    given = _field(fields, ways[0]) if ways else None
    if ways == ["in_cluster"]:
        config.load_incluster_config(client_configuration=configuration)
    elif ways == ["kube_config_path"]:
        config.load_kube_config(given, context, configuration)
    elif ways == ["kube_config"]:
        loaded = yaml.safe_load(given) if isinstance(given, str) else given
        config.load_kube_config_from_dict(loaded, context, configuration)
    else:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            config.load_kube_config(context=context, client_configuration=configuration)


def _keep_alive(configuration: Configuration) -> None:
    from urllib3.connection import HTTPConnection

    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    known = {name: value for name, value in KEEPALIVE.items() if hasattr(socket, name)}
    options += [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in known.items()]
    configuration.socket_options = [*HTTPConnection.default_socket_options, *options]


def _field(fields: Mapping[str, object], name: str) -> Any:
    """Return a field of the connection's extra; older versions of Airflow saved it with a prefix."""
    return fields.get(name) or fields.get(f"extra__kubernetes__{name}") or None


def _is_true(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _context_namespace(fields: Mapping[str, Any], context: str | None) -> str:
    """Return the namespace of the kubeconfig's context, as kubectl does, or that of Airflow's own pod."""
    import yaml
    from kubernetes import config

    given = _field(fields, "kube_config")
    if _field(fields, "in_cluster"):
        return _own_namespace()
    if given is None:
        path = _field(fields, "kube_config_path")
        if path is None and _is_in_cluster():
            return _own_namespace()
        contexts, active = config.list_kube_config_contexts(path)
    else:
        loaded = yaml.safe_load(given) if isinstance(given, str) else given
        contexts = loaded.get("contexts") or ()
        active = next((one for one in contexts if one["name"] == loaded.get("current-context")), {})
    chosen = next((one for one in contexts if one["name"] == context), active) if context else active
    return str((chosen.get("context") or {}).get("namespace") or "")


def _is_in_cluster() -> bool:
    """Return whether :func:`_load` uses the account of Airflow's own pod."""
    from kubernetes import client, config

    try:
        config.load_incluster_config(client_configuration=client.Configuration())
    except config.ConfigException:
        return False
    return True


def _own_namespace() -> str:
    try:
        with open(IN_CLUSTER_NAMESPACE) as file:
            return file.read().strip()
    except OSError:
        return ""
