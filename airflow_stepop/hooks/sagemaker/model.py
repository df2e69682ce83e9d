"""Checks a request against the limits of the vendor's own model, before it is sent.

botocore checks types and the shortest lengths only. The longest lengths, patterns and enums are in its model,
too, and the service checks them. A request that breaks one of them is refused here, with the name of the
field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from airflow_stepop.exceptions import StepConfigError

SHOWN = 60  # characters of a refused value in a message


def refused_values(shape: Any, request: object) -> None:
    """Check a request against a shape of botocore's model.

    An enum is not checked: the service may know more values than the installed model.

    :param shape: ``operation_model.input_shape``
    :raises StepConfigError: names every field that the service would refuse
    """
    if problems := list(_problems(shape, request, "")):
        raise StepConfigError("SageMaker would refuse the training job: " + "; ".join(problems))


def _problems(shape: Any, value: Any, path: str) -> Iterator[str]:
    limits = shape.metadata
    if shape.type_name == "structure" and isinstance(value, dict):
        yield from _of_members(shape, value, path)
    elif shape.type_name == "list" and isinstance(value, list):
        yield from _size(path, len(value), limits, "entries")
        for index, one in enumerate(value):
            yield from _problems(shape.member, one, f"{path}[{index}]")
    elif shape.type_name == "map" and isinstance(value, dict):
        yield from _size(path, len(value), limits, "entries")
        for key, one in value.items():
            yield from _problems(shape.key, key, f"{path}, name {key[:SHOWN]!r}")
            yield from _problems(shape.value, one, f"{path}[{key[:SHOWN]!r}]")
    elif shape.type_name == "string" and isinstance(value, str):
        yield from _size(path, len(value), limits, "characters")
        yield from _pattern(path, value, limits)
    elif shape.type_name in ("integer", "long") and isinstance(value, int):
        yield from _number(path, value, limits)


def _of_members(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for name, one in value.items():
        where = f"{path}.{name}" if path else name
        if name not in shape.members:
            yield f"{where} is no field of the installed botocore's model (update boto3, if it is a new one)"
        else:
            yield from _problems(shape.members[name], one, where)


def _size(path: str, size: int, limits: dict[str, Any], unit: str) -> Iterator[str]:
    if "max" in limits and size > limits["max"]:
        yield f"{path} has {size} {unit}, and at most {limits['max']} are allowed"
    if "min" in limits and size < limits["min"]:
        yield f"{path} has {size} {unit}, and at least {limits['min']} are needed"


def _number(path: str, value: int, limits: dict[str, Any]) -> Iterator[str]:
    if "max" in limits and value > limits["max"]:
        yield f"{path} is {value}, and at most {limits['max']} is allowed"
    if "min" in limits and value < limits["min"]:
        yield f"{path} is {value}, and at least {limits['min']} is needed"


def _pattern(path: str, value: str, limits: dict[str, Any]) -> Iterator[str]:
    """The patterns are Java's, and match the whole value. A dot matches no line end."""
    pattern = limits.get("pattern")
    if pattern is None:
        return
    pattern = pattern.replace(r"\p{Alnum}", "A-Za-z0-9")
    if r"\p{" in pattern:  # classes of Unicode, which Python's regular expressions do not have
        return
    if re.fullmatch(pattern, value) is None:
        shown = value[:SHOWN] + ("..." if len(value) > SHOWN else "")
        yield f"{path} is {shown!r}, which does not match {pattern}"
