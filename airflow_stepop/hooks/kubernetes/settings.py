"""The options of the ``kubernetes`` backend, and the field of the pod that each option sets.

The hook parses ``settings=`` of a task into :class:`KubernetesSettings`. ``manifests.py`` renders it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.kubernetes.literals import check_literals
from airflow_stepop.hooks.kubernetes.objects import STEP, Json, as_json, normal
from airflow_stepop.hooks.settings import BackendSettings

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

# setting -> field of the pod spec
POD_FIELDS = {
    "affinity": "affinity",
    "dns_config": "dnsConfig",
    "dns_policy": "dnsPolicy",
    "host_aliases": "hostAliases",
    "host_ipc": "hostIPC",
    "host_network": "hostNetwork",
    "host_pid": "hostPID",
    "image_pull_secrets": "imagePullSecrets",
    "init_containers": "initContainers",
    "node_selector": "nodeSelector",
    "preemption_policy": "preemptionPolicy",
    "priority_class_name": "priorityClassName",
    "runtime_class_name": "runtimeClassName",
    "scheduler_name": "schedulerName",
    "security_context": "securityContext",
    "service_account_name": "serviceAccountName",
    "share_process_namespace": "shareProcessNamespace",
    "termination_grace_period_seconds": "terminationGracePeriodSeconds",
    "tolerations": "tolerations",
    "topology_spread_constraints": "topologySpreadConstraints",
    "volumes": "volumes",
}
# setting -> field of the step's container
CONTAINER_FIELDS = {
    "container_security_context": "securityContext",
    "env_from": "envFrom",
    "image_pull_policy": "imagePullPolicy",
    "volume_mounts": "volumeMounts",
}
# A finished job must outlast the wait for a worker, a busy scheduler, and restarts of Airflow
SHORTEST_TTL_S = 3600
# node labels that name the GPU: GKE, Karpenter, EKS, NVIDIA's GPU operator, AKS
GPU_LABELS = (
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "k8s.amazonaws.com/accelerator",
    "nvidia.com/gpu.product",
    "accelerator",
)


class KubernetesSettings(BackendSettings):
    """Options of the ``kubernetes`` backend. Keys inside objects may be written as in YAML or in snake case.

    :param namespace: where the job runs; by default the connection's, else that of the kubeconfig's context
        or of Airflow's own pod, else ``default``
    :param kubernetes_context: context of the kubeconfig; by default the connection's
    :param service_account_name: account of the pod; its token is mounted only when this is set
    :param image_pull_policy: ``Always``, ``IfNotPresent`` or ``Never``
    :param image_pull_secrets: names of Secrets, or objects with a ``name``
    :param labels: labels of the job and its pod
    :param annotations: annotations of the job and its pod
    :param node_selector: labels that the node must have
    :param affinity: rules for the node, and for other pods on the node
    :param tolerations: taints of nodes that the pod accepts
    :param topology_spread_constraints: how pods with the same labels are spread over nodes
    :param spot: run on a spot node, by the labels and taints of GKE, EKS, Karpenter and AKS
    :param priority_class_name: name of the PriorityClass
    :param preemption_policy: ``Never`` keeps the pod from preempting others
    :param scheduler_name: another scheduler than the cluster's own
    :param runtime_class_name: name of the RuntimeClass
    :param queue_name: LocalQueue of Kueue; Kueue then starts the job
    :param gpu_resource: the resource name of a GPU on the nodes; set it for AMD, Intel or MIG
    :param gpu_type_labels: node labels; one of them must name ``gpu_type``
    :param resources: requests and limits in addition to those of ``resource_settings``
    :param env_from: Secrets and ConfigMaps as environment variables
    :param env: environment variables in the form of the API, for example with ``valueFrom``
    :param volumes: volumes of the pod
    :param volume_mounts: paths of the volumes in the step's container
    :param init_containers: containers that run before the step
    :param sidecars: containers that run beside the step and are stopped when it ends
    :param security_context: security context of the pod
    :param container_security_context: security context of the step's container
    :param host_aliases: further lines of ``/etc/hosts``
    :param host_network: use the node's network
    :param host_ipc: use the node's IPC namespace
    :param host_pid: see the node's processes
    :param share_process_namespace: let the containers of the pod see each other's processes
    :param dns_policy: which name servers the pod asks
    :param dns_config: further name servers and options
    :param termination_grace_period_seconds: seconds between SIGTERM and SIGKILL, by default 30; at least 1,
        because with 0 a cluster forgets a pod before the pod has ended
    :param active_deadline_seconds: longest run time of the step in seconds; the same as ``timeout``
    :param ttl_seconds_after_finished: seconds after which the cluster removes a finished job; at least
        3600, because a worker must read the result before
    :param pod_template: a pod with which the rendered pod is merged: a mapping, YAML, or the path of a YAML
        file, relative to the DAG file's folder. Its container ``step`` is the step's. Fields that the task
        decides must be left out
    :param python: interpreter in the image
    :param outcome_in_log: an outcome above 1 KiB comes back through the pod's log, masked for other readers;
        ``False``: through the store, which must be a bucket
    """

    location_fields: ClassVar[tuple[str, ...]] = ("namespace", "kubernetes_context")
    timeout_field: ClassVar[str] = "active_deadline_seconds"

    namespace: str | None = None
    kubernetes_context: str | None = None
    service_account_name: str | None = None
    image_pull_policy: str | None = None
    image_pull_secrets: list[Any] | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    node_selector: dict[str, str] | None = None
    affinity: Any = None
    tolerations: list[Any] | None = None
    topology_spread_constraints: list[Any] | None = None
    spot: bool = False
    priority_class_name: str | None = None
    preemption_policy: str | None = None
    scheduler_name: str | None = None
    runtime_class_name: str | None = None
    queue_name: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    gpu_type_labels: list[str] = Field(default_factory=lambda: list(GPU_LABELS), min_length=1)
    resources: Any = None
    env_from: list[Any] | None = None
    env: list[Any] | None = None
    volumes: list[Any] | None = None
    volume_mounts: list[Any] | None = None
    init_containers: list[Any] | None = None
    sidecars: list[Any] | None = None
    security_context: Any = None
    container_security_context: Any = None
    host_aliases: list[Any] | None = None
    host_network: bool | None = None
    host_ipc: bool | None = None
    host_pid: bool | None = None
    share_process_namespace: bool | None = None
    dns_policy: str | None = None
    dns_config: Any = None
    termination_grace_period_seconds: int | None = Field(default=None, ge=1)
    active_deadline_seconds: int | None = Field(default=None, ge=1)
    ttl_seconds_after_finished: int = 86400
    pod_template: Any = None
    python: str = "python3"
    outcome_in_log: bool = True

    @field_validator("ttl_seconds_after_finished")
    @classmethod
    def _long_enough(cls, ttl_s: int) -> int:
        if ttl_s < SHORTEST_TTL_S:
            raise ValueError(
                f"{ttl_s} is too short: the cluster could remove a finished job before a worker has read its "
                f"result, and the result would be lost. Use {SHORTEST_TTL_S} or more, or leave it out; a job "
                "that has succeeded is removed at once anyway, unless the task has keep='always'"
            )
        return ttl_s

    @field_validator("image_pull_secrets")
    @classmethod
    def _named(cls, secrets: list[Any] | None) -> list[Any] | None:
        return [{"name": one} if isinstance(one, str) else one for one in secrets] if secrets else secrets

    def beside(self, folder: Path) -> Self:
        """Return the settings with a relative ``pod_template`` resolved against the DAG file's folder."""
        return self.model_copy(update={name: str(folder / path) for name, path in self.named_files().items()})

    def named_files(self) -> dict[str, Path]:
        given = self.pod_template
        is_file = isinstance(given, str | Path) and _is_path(str(given))
        return {"pod_template": Path(str(given))} if is_file else {}

    def check_with(self, image: str | None, resources: ResourceSettings | None) -> None:
        """Check the keys of all objects, and the resources. A template in a file is not read."""
        check_literals(image, resources)
        self.pod_fields()
        self.container_fields()
        if not self.named_files():
            self.template()
        if resources is not None:
            from airflow_stepop.hooks.kubernetes.resources import requirements

            requirements(resources, self)

    def pod_fields(self) -> Json:
        """Return the user's fields of the pod spec, in the API's spelling.

        :raises StepConfigError: a setting has an unknown key, at any depth
        """
        return self._fields(POD_FIELDS, "PodSpec")

    def container_fields(self) -> Json:
        """Return the user's fields of the step's container, in the API's spelling.

        :raises StepConfigError: a setting has an unknown key, at any depth
        """
        found = self._fields(CONTAINER_FIELDS, "Container")
        if self.resources is not None:
            found["resources"] = normal(self.resources, "ResourceRequirements", "resources")
        return found

    def other_containers(self) -> list[Json]:
        """Return the sidecars: containers that the cluster starts before the step and stops after the step.

        https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
        """
        sidecars: list[Json] = normal(self.sidecars or [], "[Container]", "sidecars")
        return [{**one, "restartPolicy": "Always"} for one in sidecars]

    def template(self) -> Json:
        """Return the pod template: its ``metadata`` and ``spec``.

        :raises StepConfigError: the template cannot be read, is no pod, or sets a field of the task
        """
        given = _loaded(self.pod_template)
        if "spec" not in given and not set(given) <= _POD_KEYS:
            given = {"spec": given}
        _check_keys(given)
        if given.get("template") is not None:  # the input is a PodTemplate object
            given = as_json(given["template"])
            _check_keys(given)
        spec = normal(given.get("spec") or {}, "PodSpec", "pod_template.spec")
        metadata = normal(given.get("metadata") or {}, "ObjectMeta", "pod_template.metadata")
        _check_template(metadata, spec)
        own = {name: value for name, value in metadata.items() if name not in _OF_THE_SERVER}
        return {"metadata": own, "spec": spec}

    def _fields(self, table: Mapping[str, str], kind: str) -> Json:
        given = {field: getattr(self, name) for name, field in table.items()}
        names = {field: name for name, field in table.items()}
        return {
            field: normal({field: value}, kind, f"settings, {names[field]}")[field]
            for field, value in given.items()
            if value is not None
        }


# keys at the top of a Pod, PodTemplateSpec or PodTemplate, as in YAML and in the official client
_POD_KEYS = frozenset({"apiVersion", "api_version", "kind", "metadata", "spec", "status", "template"})
# metadata that the API server gives to an object. ``kubectl get -o yaml`` shows it
_OF_THE_SERVER = frozenset(
    {"creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid"}
)


def _check_keys(given: object) -> None:
    """Refuse a pod with an unknown key at the top. ``status`` is allowed: kubectl writes it into each pod.

    :raises StepConfigError: ``given`` is no mapping, or has another key
    """
    if not isinstance(given, Mapping):
        raise StepConfigError(f"pod_template is no pod: {json.dumps(given, default=str)[:80]}")
    if unknown := set(given) - _POD_KEYS:
        valid = ", ".join(sorted(_POD_KEYS - {"api_version"}))
        raise StepConfigError(f"pod_template has no {min(map(str, unknown))!r} (valid: {valid})")


def step_of(spec: Json) -> Json:
    """Return the step's container in a pod spec; empty when there is none."""
    return next((one for one in spec.get("containers") or () if one.get("name") == STEP), {})


def _check_template(metadata: Json, spec: Json) -> None:
    """Refuse fields that would have no effect, or another effect than the user expects.

    :raises StepConfigError: the template has a field of this kind
    """
    names = [one.get("name") for one in spec.get("containers") or ()]
    if names and STEP not in names:
        raise StepConfigError(
            f"pod_template has the containers {', '.join(map(repr, names))} and none called {STEP!r}: call "
            f"the step's container {STEP!r}, and move the others to the setting sidecars"
        )
    for given, field, instead in (
        (metadata, "namespace", "the setting namespace decides where a step runs"),
        (step_of(spec), "command", "the task decides what runs"),
        (step_of(spec), "args", "the task decides what runs"),
        (step_of(spec), "terminationMessagePath", "the outcome of a step is written there"),
        (spec, "activeDeadlineSeconds", "the task's timeout= is the limit"),
    ):
        if given.get(field) is not None:
            raise StepConfigError(f"pod_template has {field}={given[field]!r}: leave it out, {instead}")
    if (policy := spec.get("restartPolicy", "Never")) != "Never":
        raise StepConfigError(
            f"pod_template has restartPolicy={policy!r}: leave it out, the task's retries= decides"
        )
    grace_s = spec.get("terminationGracePeriodSeconds", 1)
    if grace_s == 0:
        raise StepConfigError(
            "pod_template has terminationGracePeriodSeconds=0: the cluster would forget a pod before the pod "
            "has ended, and the step could run twice; use 1 or more"
        )
    if type(grace_s) is not int or grace_s < 0:
        raise StepConfigError(
            f"pod_template has terminationGracePeriodSeconds={grace_s!r}: it must be a number of seconds"
        )


def _is_path(text: str) -> bool:
    """Return whether a ``pod_template`` is the path of a file, and not YAML or JSON."""
    return "\n" not in text and not text.lstrip().startswith("{")


def _loaded(template: object) -> Json:
    if template is None:
        return {}
    template = as_json(template)
    if isinstance(template, str | Path):
        import yaml

        text = str(template)
        try:
            if _is_path(text):
                text = Path(text).read_text()
            template = yaml.safe_load(text)
        except (OSError, yaml.YAMLError) as error:
            raise StepConfigError(
                f"pod_template is neither YAML of several lines nor the path of a file: {error}. A path is "
                "relative to the DAG file's folder"
            ) from None
    if not isinstance(template, Mapping):
        raise StepConfigError(f"pod_template is no pod: {json.dumps(template, default=str)[:80]}")
    return dict(template)
