"""The setting ``overrides``: a fragment of ``CreateTrainingJob`` that is merged into the request.

``settings.py`` checks a fragment when a DAG file is parsed. The hook merges it with :func:`with_overrides`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# field -> why a step needs it as it is
CARRIES_THE_STEP: Mapping[str, str] = {
    "TrainingJobName": "a step is found again by the name of its job",
    "AlgorithmSpecification.TrainingImage": "use image= of the task",
    "AlgorithmSpecification.AlgorithmName": "a step brings its own code; use image= of the task",
    "AlgorithmSpecification.ContainerEntrypoint": "the task decides what runs",
    "AlgorithmSpecification.ContainerArguments": "the task decides what runs",
    "OutputDataConfig.S3OutputPath": "the step's result comes back there; use store= of the task",
    "OutputDataConfig.CompressionType": "the step's result comes back as single objects",
    "CheckpointConfig": "the checkpoints of a step are kept there; use ctx.checkpoint in the step",
    "ResourceConfig.InstanceCount": "a step runs on one machine",
    "ResourceConfig.InstanceGroups": "a step runs on one machine",
    "ResourceConfig.InstancePreferences": "use settings.instance_type with a list",
    "ServerlessJobConfig": "a serverless job runs no container of yours",
    "StoppingCondition.MaxPendingTimeInSeconds": "use start_timeout= of the task",
}
# lists in the request whose items have a name: items of the fragment are added
_NAMED_LISTS = {"InputDataConfig": "ChannelName", "Tags": "Key"}
_ADDED = frozenset({*_NAMED_LISTS, "Environment"})  # a setting gives some of the items, a fragment others


def check_overrides(given: Mapping[str, Any], settings: Mapping[str, str]) -> None:
    """Check that a fragment leaves alone what carries the step and what has a setting of its own.

    :param settings: field of the request -> name of its setting
    :raises ValueError: names each refused field and what to use instead
    """
    refused = {
        **{field: f"use settings.{name}" for field, name in settings.items() if field not in _ADDED},
        **CARRIES_THE_STEP,
    }
    found = [f"{path} ({refused[path]})" for path in _paths(given) if path in refused]
    found += [f"{path} (its name is the step's)" for path in _own_items(given)]
    if found:
        raise ValueError(f"leave out {', '.join(found)}")


def _paths(given: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in given.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _own_items(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield the items of a fragment that the request of each step has, too."""
    for field, key in _NAMED_LISTS.items():
        for one in given.get(field) or ():
            name = str(one.get(key, "")) if isinstance(one, Mapping) else ""
            if name.lower().startswith("stepop"):
                yield f"{field} {name!r}"
    variables = given.get("Environment")
    for name in variables if isinstance(variables, Mapping) else ():
        if str(name).upper().startswith("STEPOP_"):
            yield f"Environment.{name}"


def with_overrides(request: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request with a fragment merged into it. Neither argument changes.

    Objects are merged key by key. Channels and tags are added; one with the same name is replaced. Any other
    value replaces the request's.

    :param overrides: a fragment that passed :func:`check_overrides`
    """
    merged = dict(request)
    for key, value in overrides.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[key] = with_overrides(old, value)
        elif key in _NAMED_LISTS and isinstance(value, list) and isinstance(old, list):
            name = _NAMED_LISTS[key]
            items = {one.get(name): one for one in [*old, *value]}
            merged[key] = list(items.values())
        else:
            merged[key] = value
    return merged
