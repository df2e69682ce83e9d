"""Every request is validated completely against the vendor's model.

botocore itself checks types and minimums only. Two passes, as at AWS: first the JSON becomes objects
(``SerializationException``: wrong types, unknown members), then all constraints are checked and all
failures are told together (``ValidationException``: ``2 validation errors detected: Value 'x' at 'y' failed
to satisfy constraint: Member must ...; Value ...``). The words are those of AWS services that use the same
framework. A real service may ignore an unknown member; the emulator refuses it, so that a misspelt one is
found.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.emulators.sagemaker.errors import ApiError, invalid
from tests.emulators.sagemaker.model import input_shape
from tests.emulators.sagemaker.patterns import matches

SCALARS = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}


def check_request(service: str, operation: str, body: Any) -> None:
    """Raise the error that AWS would answer; return if the request is valid."""
    shape = input_shape(service, operation)
    if shape is None:
        return
    check_types(shape, body)
    failures = list(constraint_failures(shape, body, ""))
    if failures:
        count = f"{len(failures)} validation error{'s' if len(failures) > 1 else ''} detected: "
        raise invalid(count + "; ".join(failures))


def check_types(shape: Any, value: Any) -> None:
    """Raise ``SerializationException`` for a value of a wrong type and for an unknown member."""
    if value is None:
        return
    kind = shape.type_name
    if kind == "structure":
        _check_members(shape, value)
    elif kind == "list":
        for item in _expect(list, value, "Expected list or null"):
            check_types(shape.member, item)
    elif kind == "map":
        for item in _expect(dict, value, "Expected map or null").values():
            check_types(shape.value, item)
    else:
        _check_scalar(kind, value)


def _check_members(shape: Any, value: Any) -> None:
    for name, item in _expect(dict, value, "Unexpected value type in payload").items():
        if name not in shape.members:
            raise _serialization(f"Unknown member {name} of {shape.name}")
        check_types(shape.members[name], item)


def _check_scalar(kind: str, value: Any) -> None:
    target = {"integer": "Integer", "long": "Long"}.get(kind, kind.capitalize())
    if isinstance(value, list):
        raise _serialization("Start of list found where not expected")
    if isinstance(value, dict):
        raise _serialization("Start of structure or map found where not expected.")
    if not isinstance(value, SCALARS[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise _serialization(f"{_token(value)} can not be converted to {target}")


def _token(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE_VALUE" if value else "FALSE_VALUE"
    return "STRING_VALUE" if isinstance(value, str) else "NUMBER_VALUE"


def _expect(kind: type, value: Any, text: str) -> Any:
    if not isinstance(value, kind):
        raise _serialization(text)
    return value


def _serialization(text: str) -> ApiError:
    return ApiError("SerializationException", text)


def _lower_first(name: str) -> str:
    return name[:1].lower() + name[1:]


def failure(shown: str, path: str, constraint: str) -> str:
    """Return one failure in the words of AWS."""
    value = shown if shown == "null" else f"'{shown}'"
    return f"Value {value} at '{path}' failed to satisfy constraint: {constraint}"


def constraint_failures(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Yield every violated constraint of a value and of what is in it."""
    kind = shape.type_name
    if kind == "structure":
        yield from _structure_failures(shape, value, path)
        return
    for constraint in own_constraints(shape, value):
        yield failure(shown(value), path, constraint)
    if kind == "list":
        yield from _list_failures(shape, value, path)
    elif kind == "map":
        for whose, inner, items in (
            ("Map keys", shape.key, value),
            ("Map value", shape.value, value.values()),
        ):
            if any(any(own_constraints(inner, item)) for item in items if item is not None):
                yield failure(
                    shown(value), path, f"{whose} must satisfy constraint: {all_constraints(inner)}"
                )


def _structure_failures(shape: Any, value: dict[str, Any], path: str) -> Iterator[str]:
    for name in shape.required_members:
        if value.get(name) is None:
            yield failure("null", f"{path}{_lower_first(name)}", "Member must not be null")
    for name, item in value.items():
        if item is not None:
            member = shape.members[name]
            dot = "." if member.type_name == "structure" else ""
            yield from constraint_failures(member, item, f"{path}{_lower_first(name)}{dot}")


def _list_failures(shape: Any, value: list[Any], path: str) -> Iterator[str]:
    if shape.member.type_name == "structure":
        for number, item in enumerate(value, 1):
            yield from constraint_failures(shape.member, item, f"{path}.{number}.member.")
    elif any(any(own_constraints(shape.member, item)) for item in value if item is not None):
        yield failure(shown(value), path, f"Member must satisfy constraint: {all_constraints(shape.member)}")


def own_constraints(shape: Any, value: Any) -> Iterator[str]:
    """Yield the constraints of a shape that a value violates, without those of its members."""
    limits = shape.metadata
    if "enum" in limits and value not in limits["enum"]:
        yield f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]"
    size = _size(shape.type_name, value)
    if size is not None:
        word = "length" if shape.type_name in ("string", "list", "map") else "value"
        if "max" in limits and size > limits["max"]:
            yield f"Member must have {word} less than or equal to {limits['max']}"
        if "min" in limits and size < limits["min"]:
            yield f"Member must have {word} greater than or equal to {limits['min']}"
    if "pattern" in limits and isinstance(value, str) and not matches(limits["pattern"], value):
        yield f"Member must satisfy regular expression pattern: {limits['pattern']}"


def _size(kind: str, value: Any) -> float | None:
    if kind in ("list", "map"):
        return len(value)
    if kind == "string":
        return len(value.encode("utf-16-le", "surrogatepass")) // 2  # Java counts UTF-16 units
    return value if kind in ("integer", "long", "float", "double") else None


def all_constraints(shape: Any) -> str:
    """Return all constraints of a member, as AWS lists them for maps and lists of strings."""
    limits = shape.metadata
    texts = []
    if "max" in limits:
        texts.append(f"Member must have length less than or equal to {limits['max']}")
    if "min" in limits:
        texts.append(f"Member must have length greater than or equal to {limits['min']}")
    if "pattern" in limits:
        texts.append(f"Member must satisfy regular expression pattern: {limits['pattern']}")
    if "enum" in limits:
        texts.append(f"Member must satisfy enum value set: [{', '.join(limits['enum'])}]")
    return f"[{', '.join(texts)}]"


def shown(value: Any) -> str:
    """Return a value as Java prints it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(shown(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
