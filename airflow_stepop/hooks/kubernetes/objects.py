"""Checks, normalizes and merges Kubernetes objects as JSON, for ``settings.py`` and ``manifests.py``.

``schema.json`` lists the fields of a pod as the official client knows them; ``scripts/pod_schema.py`` writes
the file. With the file, a DAG file is checked without the client and without a cluster.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence, Set
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from airflow_stepop.exceptions import StepConfigError

Json = dict[str, Any]

STEP = "step"  # name of the step's container

# field with a list -> key by which entries of two merged lists are matched: "patchMergeKey" in the API
# reference, https://kubernetes.io/docs/reference/generated/kubernetes-api/v1.34/
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
# field with an object -> fields of the object that exclude each other: a value of one replaces the other. See
# "patchStrategy" retainKeys and the unions in the same reference
_HANDLERS = frozenset({"exec", "grpc", "httpGet", "sleep", "tcpSocket"})
EITHER_OR = {
    "env": frozenset({"value", "valueFrom"}),
    "volumeMounts": frozenset({"subPath", "subPathExpr"}),
    "resourceClaims": frozenset({"resourceClaimName", "resourceClaimTemplateName"}),
    **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe", "postStart", "preStop"), _HANDLERS),
}
# objects with one choice in them, which are replaced as a whole
CHOICES = frozenset({"valueFrom", "seccompProfile", "appArmorProfile"})


@cache
def schema() -> Mapping[str, Mapping[str, str]]:
    """Return kind -> field -> kind of the field, in the notation of ``scripts/pod_schema.py``."""
    found: dict[str, dict[str, str]] = json.loads(files(__package__).joinpath("schema.json").read_text())
    return found


def snake_case(name: str) -> str:
    """Return a field of the API as the official client spells it: ``hostIPC`` is ``host_ipc``."""
    parted = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", parted).lower()


@cache
def _spellings(kind: str) -> Mapping[str, str]:
    return {spelling: field for field in schema()[kind] for spelling in (snake_case(field), field)}


def normal(value: object, kind: str, where: str) -> Any:
    """Check a value and return it with keys in the API's spelling.

    :param value: JSON with keys in either spelling, or an object of the official client
    :param kind: kind of the value in :func:`schema`, such as ``PodSpec`` or ``[Container]``
    :param where: the user's name of the value, for messages
    :raises StepConfigError: a key is unknown or given twice, or the value is no list or no mapping
    """
    value = as_json(value)
    if kind.startswith("["):
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise StepConfigError(f"{where} must be a list, not {type(value).__name__}")
        return [normal(one, kind[1:-1], f"{where}[{index}]") for index, one in enumerate(value)]
    if kind == "":
        return value
    if not isinstance(value, Mapping):
        raise StepConfigError(f"{where} must be a mapping, not {type(value).__name__}")
    return dict(value) if kind == "{}" else _normal_object(value, kind, where)


def _normal_object(value: Mapping[str, Any], kind: str, where: str) -> Json:
    found: Json = {}
    for key, inner in value.items():
        field = _spellings(kind).get(key)
        if field is None:
            close = [one for one in _spellings(kind) if str(key).startswith(one)]  # enviroment: env
            close = close or get_close_matches(str(key), _spellings(kind), n=1)
            guess = f"; did you mean {max(close, key=len)!r}?" if close else ""
            valid = ", ".join(sorted(map(snake_case, schema()[kind])))
            raise StepConfigError(f"{where} has no {key!r}{guess} (valid: {valid})")
        if field in found:
            raise StepConfigError(f"{where} has {field!r} in two spellings")
        found[field] = normal(inner, schema()[kind][field], f"{where}.{key}")
    return found


def as_json(value: Any) -> Any:
    """Return an object of the official client as JSON in snake case; any other value unchanged."""
    is_model = hasattr(value, "openapi_types") and hasattr(value, "to_dict")
    return _without_nothing(value.to_dict()) if is_model else value


def _without_nothing(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _without_nothing(inner) for key, inner in value.items() if inner is not None}
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value


def merged(under: object, over: object, field: str = "") -> Any:
    """Merge ``over`` into ``under`` like a strategic merge patch, and return the result.

    Mappings are merged by key; of the fields that exclude each other, only that of ``over`` stays. Lists in
    :data:`MERGE_KEYS` are merged entry by entry. Any other value of ``over`` replaces the one of ``under``.

    :param field: name of the field that has the two values
    :raises StepConfigError: an entry of a merged list has no merge key
    """
    if isinstance(under, Mapping) and isinstance(over, Mapping) and field not in CHOICES:
        replaced = _replaced(over, field)
        both = {**{name: value for name, value in under.items() if name not in replaced}, **over}
        return {
            name: merged(under[name], over[name], name) if name in under and name in over else both[name]
            for name in both
        }
    key = MERGE_KEYS.get(field)
    if key is None or not isinstance(under, list) or not isinstance(over, list):
        return over
    for entry in [*under, *over]:
        if key not in entry:
            raise StepConfigError(f"{field} of pod_template or settings: an entry has no {key!r}: {entry}")
    return _merged_entries(under, over, key, field)


def _replaced(over: Mapping[str, object], field: str) -> Set[str]:
    """Return the fields that ``over`` excludes from the object that it is merged into."""
    group: Set[str] = EITHER_OR.get(field, frozenset())
    if field == "volumes":  # every field but the name is a kind of volume
        group = schema()["Volume"].keys() - {"name"}
    given = {name for name in group & over.keys() if over[name] is not None}
    return group - given if given else frozenset()


def _merged_entries(under: list[Json], over: list[Json], key: str, field: str) -> list[Json]:
    """Merge two lists by the entries' ``key``. Entries with a key that is not unique replace the others."""
    found = []
    done = set()
    for entry in under:
        same = [one for one in under if one[key] == entry[key]]
        instead = [one for one in over if one[key] == entry[key]]
        if not instead:
            found.append(entry)
        elif entry[key] not in done:
            done.add(entry[key])
            is_pair = len(same) == len(instead) == 1
            found += [merged(entry, instead[0], field)] if is_pair else instead
    return [*found, *(one for one in over if one[key] not in done)]
