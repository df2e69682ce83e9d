"""Pickles enums by value, with all that their members have. Used by :mod:`.by_value`.

cloudpickle makes each member of its value alone. What the enum's ``__new__`` or ``__init__`` did is lost.
The names of aliases and of combined flags are lost, too.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_OWN = ("_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_")  # attributes that enum itself sets
_MAPS = ("_hashable_values_", "_unhashable_values_", "_unhashable_values_map_")


def reduce_enum(cls: Any, reduced: Any) -> Any:
    """Return cloudpickle's ``(make, arguments, (attributes, slots))`` of an enum, corrected."""
    (bases, name, qualname, _, module, tracker, _), (attributes, _) = reduced[1:3]
    by_name: Mapping[str, Any] = cls.__members__
    members = [(key, _data(member, cls._member_type_), member._value_) for key, member in by_name.items()]
    for key in (*by_name, *_MAPS):
        attributes.pop(key, None)
    own = {
        key: {k: v for k, v in vars(member).items() if k not in _OWN}
        for key, member in by_name.items()
        if key == member._name_
    }
    values = {value: member._name_ for value, member in cls._value2member_map_.items()}
    more = {
        "own": own,
        "values": {k: v for k, v in values.items() if v in by_name and k != by_name[v]._value_},
    }
    return make_enum, (bases, name, qualname, module, tracker, members), (attributes, more)


def _data(member: Any, kind: Any) -> tuple[Any, ...]:
    """Return the arguments from which ``kind``, the data type that is mixed in, makes the member's data."""
    if hasattr(kind, "__getnewargs__"):
        return tuple(kind.__getnewargs__(member))
    if kind.__reduce__ is object.__reduce__:  # its data are attributes
        return ()
    return tuple(kind.__reduce__(member)[1])


class _Member:
    def __init__(self, data: tuple[Any, ...], value: Any) -> None:
        self.data = data
        self.value = value


def make_enum(bases: Any, name: str, qualname: str, module: str, tracker: str, members: Any) -> Any:
    """Return an enum whose members have their data and values, and no attributes yet."""
    from cloudpickle.cloudpickle import _lookup_class_or_track

    def new(cls: Any, member: Any) -> Any:
        (member,) = member if isinstance(member, tuple) else (member,)
        made = cls._member_type_.__new__(cls, *member.data)
        made._value_ = member.value
        return made

    meta: Any = type(bases[-1])
    body = meta.__prepare__(name, bases)
    body["__new__"] = new
    body["__init__"] = lambda self, *_: None
    body["__reduce_ex__"] = bases[-1].__reduce_ex__  # else some data types make enum forbid pickling
    for key, data, value in members:
        body[key] = _Member(data, value)
    made = meta.__new__(meta, name, bases, body)
    for key in ("__init__", "__new_member__", "__reduce_ex__"):
        if key in vars(made) and (key != "__reduce_ex__" or made._member_type_ is object):
            delattr(made, key)
    made.__module__, made.__qualname__ = module, qualname
    return _lookup_class_or_track(tracker, made)


def fill_enum(cls: Any, own: dict[str, dict[str, Any]], values: dict[Any, str]) -> None:
    """Give the members their attributes, and further values that lead to them."""
    for key, attributes in own.items():
        vars(cls.__members__[key]).update(attributes)
    for value, key in values.items():
        cls._value2member_map_.setdefault(value, cls.__members__[key])
