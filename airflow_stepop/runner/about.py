"""Says for people what a value is, and which parts of a result had to be pickled.

Used where results are encoded. The lines go to the step's log. :func:`describe` is also called by the host.
"""

from __future__ import annotations

import sys

from .failures import PREFIX
from .protocol import LEVEL_MARK
from .sizes import shown_size
from .values import encode_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .entries import Encoded

LONGEST = 200  # characters of a description
PLACES = 5  # places that a line names
SEEN = 100_000  # values inside a result that are looked at
REPORTS = 20  # values of a result that are reported one by one
CONTAINERS = (list, tuple, dict, set, frozenset)

_reports = 0


def describe(value: Any) -> str:
    """Return the type of a value with its shape or length, such as ``pandas.DataFrame 2000 x 13``."""
    kind = type(value)
    name = ""
    try:
        name = type_name(kind)
        shape = () if kind in CONTAINERS else getattr(value, "shape", ())
        if kind in CONTAINERS:
            name += f" of {len(value)}"
        elif isinstance(shape, tuple) and shape and all(isinstance(count, int) for count in shape):
            name += " " + " x ".join(map(str, shape))
    except Exception:  # noqa: S110 - a shape and a module's name may be the user's own code
        pass
    return name[:LONGEST]


def type_name(kind: type, is_full: bool = False) -> str:
    """Return the name of a type as its users write it: ``dict``, ``pandas.DataFrame``, ``Forest``.

    :param is_full: with its module, if the type is not in the top module of its package
    """
    module, name = str(kind.__module__), kind.__qualname__
    if module in ("builtins", "__main__") or module.startswith(PREFIX):
        return name
    top = module.partition(".")[0]
    if vars(sys.modules.get(top, sys)).get(name) is kind:
        return f"{top}.{name}"
    return f"{module}.{name}" if is_full else name


def report(value: object, encoded: Encoded, where: str) -> None:
    """Write to the step's log what JSON could not hold: parts that were pickled, and NaN or infinity.

    :param where: the place of ``value`` in the result, such as ``['model']``
    """
    global _reports  # noqa: PLW0603 - a list of a thousand models shall not fill the log
    is_pickled = encoded.codec == "pickle"
    if not is_pickled and not has_odd(encoded):
        return
    _reports += 1
    if _reports > REPORTS:
        if _reports == REPORTS + 1:
            say("stepop: more values were pickled, or are not finite; they are not listed")
        return
    try:
        pickled, odd = _places(value, where)
    except Exception:  # the repr of a key is the user's own code
        pickled, odd = [], []
    if is_pickled:
        shown = (
            _line(pickled) or f"{where or 'the result'} is {describe(value)}, too deep or too large for JSON"
        )
        encoded.pickled = shown[:LONGEST]
        say(f"stepop: {shown}: pickled, {shown_size(encoded.size)}")
    if odd:
        warn(f"{_line(odd)}: JSON has no such number. The next task gets it as it is")


def has_odd(encoded: Encoded) -> bool:
    """Return whether NaN or infinity is in a value that is written as JSON."""
    return encoded.codec == "json" and b'{"(float)"' in encoded.segments[0][0]


def _places(value: Any, where: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return place and type of what only a pickle can hold, and place and text of NaN and infinity."""
    pickled, odd = [], []
    for place, one in _parts(value, where):
        encoded = encode_json(one)
        if encoded is None:
            pickled.append((place, type_name(type(one), is_full=True)))
        elif type(one) is not str and has_odd(encoded):
            odd.append((place, str(one)))
    return pickled, odd


def _parts(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the first values inside lists, dicts and the like, each with its place."""
    stack = [(where, value)]
    seen: set[int] = set()
    for _ in range(SEEN):
        if not stack:
            return
        place, one = stack.pop()
        kind = type(one)
        if kind not in CONTAINERS:
            yield place, one
        elif len(one) <= SEEN and id(one) not in seen:
            seen.add(id(one))
            is_set = kind is set or kind is frozenset
            items = list(one.items() if kind is dict else enumerate(one))
            stack += [(place if is_set else f"{place}[{key!r:.80}]", item) for key, item in reversed(items)]
            if kind is dict:
                stack += [(f"{place or 'the result'}, a key", key) for key in one if type(key) is not str]


def _line(found: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{place or 'the result'} is {what}" for place, what in found[:PLACES])
    return shown + (f" and {len(found) - PLACES} more" if len(found) > PLACES else "")


def warn(text: str) -> None:
    """Write a warning to the step's log, in the form of Python's logging."""
    say(f"WARNING:stepop: {text}", LEVEL_MARK)


def say(line: str, mark: str = "") -> None:
    """Write a line to the step's log, which the step may have closed."""
    text = line.encode("ascii", "backslashreplace").decode()
    try:
        sys.stderr.write(mark + "".join(c if c.isprintable() else repr(c)[1:-1] for c in text) + "\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):
        pass
