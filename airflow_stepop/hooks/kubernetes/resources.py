"""Translates ``ResourceSettings`` for Kubernetes: requests, limits, node affinity and tolerations.

``manifests.py`` calls the functions. All sizes are quantities:
https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from airflow_stepop.core.units import parse_size
from airflow_stepop.exceptions import StepConfigError

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.objects import Json
    from airflow_stepop.resources import ResourceSettings

# GPU type -> spellings in the labels of GPU nodes: GKE, Karpenter, NVIDIA's GPU operator
# https://cloud.google.com/kubernetes-engine/docs/how-to/gpus
# https://karpenter.sh/docs/reference/instance-types/
# https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/index.html
GPU_SPELLINGS = {
    "T4": ("nvidia-tesla-t4", "t4", "Tesla-T4"),
    "V100": ("nvidia-tesla-v100", "v100", "Tesla-V100-SXM2-16GB"),
    "L4": ("nvidia-l4", "l4", "NVIDIA-L4"),
    "L40S": ("l40s", "NVIDIA-L40S"),
    "A10G": ("a10g", "NVIDIA-A10G"),
    "A100": ("nvidia-tesla-a100", "a100", "NVIDIA-A100-SXM4-40GB"),
    "A100-80GB": ("nvidia-a100-80gb", "a100-80gb", "NVIDIA-A100-SXM4-80GB"),
    "H100": ("nvidia-h100-80gb", "nvidia-h100-mega-80gb", "h100", "NVIDIA-H100-80GB-HBM3"),
    "H200": ("nvidia-h200-141gb", "h200", "NVIDIA-H200"),
    "B200": ("nvidia-b200", "b200", "NVIDIA-B200"),
}
# label and value of a spot node: GKE, EKS node groups, Karpenter, AKS
# https://cloud.google.com/kubernetes-engine/docs/concepts/spot-vms
# https://docs.aws.amazon.com/eks/latest/userguide/managed-node-groups.html
# https://karpenter.sh/docs/concepts/scheduling/
# https://learn.microsoft.com/azure/aks/spot-node-pool
SPOT_LABELS = (
    ("cloud.google.com/gke-spot", "true"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("karpenter.sh/capacity-type", "spot"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
)
SPOT_TOLERATIONS: Sequence[Json] = (
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    {
        "key": "kubernetes.azure.com/scalesetpriority",
        "operator": "Equal",
        "value": "spot",
        "effect": "NoSchedule",
    },
)


class ResourceOptions(Protocol):
    """What this module reads of ``KubernetesSettings``, which imports this module."""

    @property
    def gpu_resource(self) -> str: ...

    @property
    def gpu_type_labels(self) -> Sequence[str]: ...

    @property
    def spot(self) -> bool: ...

    def container_fields(self) -> Json: ...


def quantity(size: str) -> str:
    """Return a size such as ``32GB`` as a quantity: ``32GB`` is ``32G``, ``32GiB`` is ``32Gi``."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]+)", size).groups()  # type: ignore[union-attr]
    if "." in number or unit == "B":
        return str(parse_size(size))
    return number + {"KB": "k"}.get(unit, unit.removesuffix("B"))


_SUFFIXES = {
    **{unit: Fraction(1000) ** power for power, unit in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{f"{unit}i": Fraction(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
    **{unit: Fraction(1000) ** -power for power, unit in enumerate("mun", start=1)},
}


def amount_of(text: object) -> Fraction:
    """Return a quantity as an exact number: ``500m`` is 1/2, ``1Ki`` is 1024, ``1e3`` is 1000.

    :raises ValueError: the text is no quantity
    """
    parts = re.fullmatch(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?)([A-Za-z]*)", str(text))
    if parts is None or parts[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is no quantity")
    return Fraction(parts[1]) * _SUFFIXES[parts[2]]


def requirements(wanted: ResourceSettings, settings: ResourceOptions) -> Json:
    """Return ``requests`` and ``limits``; both are equal unless the setting ``resources`` adds to one.

    :raises StepConfigError: the settings contradict the resources
    """
    amounts = {}
    if wanted.cpu_count is not None:
        milli = round(wanted.cpu_count * 1000)
        amounts["cpu"] = str(milli // 1000) if milli % 1000 == 0 else f"{max(milli, 1)}m"
    if wanted.memory is not None:
        amounts["memory"] = quantity(wanted.memory)
    if wanted.disk is not None:
        amounts["ephemeral-storage"] = quantity(wanted.disk)
    if wanted.gpu_count:
        amounts[settings.gpu_resource] = str(wanted.gpu_count)
    given = settings.container_fields().get("resources") or {}
    return {
        **given,
        **{
            side: _agreed(amounts, given.get(side) or {}, side)
            for side in ("requests", "limits")
            if amounts or given.get(side)
        },
    }


def _agreed(amounts: Json, given: Json, side: str) -> Json:
    for name in sorted(amounts.keys() & given.keys()):
        try:
            is_equal = amount_of(given[name]) == amount_of(amounts[name])
        except ValueError as error:
            raise StepConfigError(
                f"settings, resources.{side}: {name}: {error} of Kubernetes, such as {amounts[name]!r}"
            ) from None
        if not is_equal:
            raise StepConfigError(
                f"settings, resources.{side}: {name}={given[name]!r} contradicts resource_settings, which "
                f"give {amounts[name]!r}; set one of them"
            )
    return {**amounts, **given}


def node_terms(wanted: ResourceSettings, settings: ResourceOptions) -> list[Json]:
    """Return node selector terms. A node must match one term: a GPU label, a spot label, or both."""
    choices: list[list[Json]] = []
    if wanted.gpu_type is not None:
        spellings = GPU_SPELLINGS.get(wanted.gpu_type.upper(), ())
        values = list(dict.fromkeys([wanted.gpu_type, *spellings]))
        choices.append([_is_in(label, values) for label in settings.gpu_type_labels])
    if settings.spot:
        choices.append([_is_in(label, [value]) for label, value in SPOT_LABELS])
    return [{"matchExpressions": list(chosen)} for chosen in product(*choices)] if choices else []


def _is_in(label: str, values: Sequence[str]) -> Json:
    return {"key": label, "operator": "In", "values": list(values)}


def with_terms(affinity: Any, terms: Sequence[Json]) -> Any:
    """Return the affinity so that a node must match one of ``terms`` and one of the user's own terms."""
    if not terms:
        return affinity
    affinity = dict(affinity or {})
    node = dict(affinity.get("nodeAffinity") or {})
    name = "requiredDuringSchedulingIgnoredDuringExecution"
    own = (node.get(name) or {}).get("nodeSelectorTerms") or [{}]
    both = [
        {**mine, "matchExpressions": [*(mine.get("matchExpressions") or []), *theirs["matchExpressions"]]}
        for mine, theirs in product(own, terms)
    ]
    return {**affinity, "nodeAffinity": {**node, name: {"nodeSelectorTerms": both}}}


def tolerations(wanted: ResourceSettings, settings: ResourceOptions) -> list[Json]:
    """Return the tolerations for the taints of GPU nodes and spot nodes, if the step asks for these nodes."""
    found = [{"key": settings.gpu_resource, "operator": "Exists", "effect": "NoSchedule"}]
    return [*(found if wanted.gpu_count else ()), *(SPOT_TOLERATIONS if settings.spot else ())]
