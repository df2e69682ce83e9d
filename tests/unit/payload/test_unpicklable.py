"""An error about something that cannot be pickled says what it is, and the way to it."""

from __future__ import annotations

import functools
import io
import pickle
import re
import threading
from collections import UserDict, defaultdict
from dataclasses import dataclass, field
from importlib import import_module
from types import SimpleNamespace

import pytest
from airflow.sdk import BaseHook

from airflow_stepop.exceptions import PayloadError
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import FunctionCall

LOCK = threading.Lock()
LOCAL = threading.local()
CLIENT = import_module("boto3").client("s3", "eu-west-1", aws_access_key_id="a", aws_secret_access_key="b")
STATE = {"known": [1, {"lock": LOCK}]}
SESSIONS = defaultdict(list, a=[SimpleNamespace(lock=LOCK)])


def message(function, *args, **kwargs):
    """Return the error of a call that cannot be sent."""
    call = FunctionCall(function=function, args=args, kwargs=kwargs, main_module=__name__, reference=None)
    with pytest.raises(PayloadError) as caught:
        build_payload(call, job="s-job", nonce="n", split="no", is_result_wanted=True)
    return str(caught.value)


def helper():
    return CLIENT


def in_a_helper():
    return helper()


class Trainer:
    """A method uses the lock."""

    def model(self):
        return LOCK


def in_a_method():
    return Trainer().model()


class Base:
    """Its subclass can be pickled itself."""

    lock = LOCK


class Child(Base):
    """Inherits the lock."""


def in_a_base():
    return Child


CHILD = Child()


def of_an_instance():
    return CHILD


def in_containers():
    return STATE


def in_a_default(lock=LOCK):
    return lock


def in_a_named_default(*, lock=LOCK):
    return lock


def in_a_lambdas_default():
    return ONE_LAMBDA()


ONE_LAMBDA = lambda lock=LOCK: lock  # noqa: E731 - the point of it


def thread_local():
    return LOCAL.x


def sessions():
    return SESSIONS


def ping(number):
    return pong(number)


def pong(number):
    return ping(number) if number else LOCK


@functools.cache
def cached():
    return LOCK


def in_a_cached():
    return cached()


PARTIAL = functools.partial(in_a_default, lock=LOCK)


def in_a_partial():
    return PARTIAL


def in_an_inner_class():
    class Inner:
        lock = LOCK

    return Inner


class Slotted:
    """Has no dict."""

    __slots__ = ("lock", "other")

    def __init__(self, lock):
        self.lock = lock


SLOTTED = Slotted(LOCK)


def slotted():
    return SLOTTED


class Service:
    """A class with a property and a static method."""

    @property
    def state(self):
        return self._state()

    @staticmethod
    def _state():
        return LOCK


def in_a_property():
    return Service().state


class Copied:
    """Pickles a copy of its state, which nothing refers to."""

    def __init__(self):
        self.lock = "a"

    def __getstate__(self):
        return {"inner": [threading.Lock()]}


COPIED = Copied()


def copied():
    return COPIED


class Stubborn:
    """Refuses itself."""

    def __reduce__(self):
        raise TypeError("it does not want to")


STUBBORN = [Stubborn()]


def stubborn():
    return STUBBORN


class SomeHook(BaseHook):
    """A hook that has its client already."""

    def __init__(self):
        super().__init__()
        self.client = CLIENT


HOOK = SomeHook()


def hook():
    return HOOK.client


@pytest.mark.parametrize(
    ("function", "path"),
    [
        (in_a_helper, "in_a_helper -> helper -> CLIENT (botocore.client.S3"),
        (in_a_method, "in_a_method -> Trainer.model -> LOCK (_thread.lock)"),
        (in_a_base, "in_a_base -> Child -> Base.lock (_thread.lock)"),
        (of_an_instance, "of_an_instance -> CHILD -> Child -> Base.lock (_thread.lock)"),
        (in_containers, "in_containers -> STATE['known'][1]['lock'] (_thread.lock)"),
        (in_a_default, "in_a_default -> the default of lock (_thread.lock)"),
        (in_a_named_default, "in_a_named_default -> the default of lock (_thread.lock)"),
        (
            in_a_lambdas_default,
            "in_a_lambdas_default -> ONE_LAMBDA -> the default of lock (_thread.lock)",
        ),
        (thread_local, "thread_local -> LOCAL (_thread._local)"),
        (sessions, "sessions -> SESSIONS['a'][0].lock (_thread.lock)"),
        (ping, "ping -> pong -> LOCK (_thread.lock)"),
        (in_a_cached, "in_a_cached -> cached -> LOCK (_thread.lock)"),
        (in_a_partial, "in_a_partial -> PARTIAL -> argument lock (_thread.lock)"),
        (in_an_inner_class, "in_an_inner_class -> LOCK (_thread.lock)"),
        (slotted, "slotted -> SLOTTED.lock (_thread.lock)"),
        (in_a_property, "in_a_property -> Service._state -> LOCK (_thread.lock)"),
        (copied, "copied -> COPIED (tests.unit.payload.test_unpicklable.Copied, which holds _thread.lock)"),
        (stubborn, "stubborn -> STUBBORN[0] (tests.unit.payload.test_unpicklable.Stubborn)"),
        (hook, "hook -> HOOK.client (botocore.client.S3"),
    ],
)
def test_the_way_to_what_a_function_refers_to(function, path):
    text = message(function)
    assert text.startswith(f"the function {function.__name__} cannot be sent: ")
    assert f": {path}" in text


def test_the_message_says_what_to_do():
    assert message(in_a_default).endswith(
        "(_thread.lock). Create it inside the step, in the function that uses it, or pass plain data as an "
        "argument"
    )
    assert "Create the hook or the client inside the step, and hand its connection over" in message(hook)


def test_outer_variables(tmp_path):
    file = (tmp_path / "log.txt").open("w")
    numbers = (number for number in range(3))

    def writes():
        return file.write("x")

    def reads():
        return writes()

    def counts():
        return next(numbers)

    with file:
        text = message(reads)
    assert "cannot pickle an open file: reads -> writes -> file (_io.TextIOWrapper). Open the file " in text
    assert "include= ships a file" in text
    assert "numbers (generator)" not in text
    assert ": counts -> numbers (generator). Make it inside the step, or make a list of it" in message(counts)


@dataclass
class Options:
    """An argument."""

    rate: float
    more: dict = field(default_factory=dict)


class WithLock:
    """The class of an argument has the lock."""

    lock = LOCK


class Knot:
    """Refers to itself."""

    def __init__(self):
        self.own = self
        self.others = [self, {"knot": self}]
        self.lock = LOCK


def takes(data, *rest, more=None):
    return data, rest, more


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Options(0.5, {"client": CLIENT}), "data.more['client'] (botocore.client.S3"),
        ([1, (n for n in [1])], "data[1] (generator). Pass list(...) of it"),
        (
            {"a": {"b": io.StringIO}, "c": threading.Lock()},
            "data['c'] (_thread.lock). Create the lock inside",
        ),
        (Knot(), "data.lock (_thread.lock)"),
        (UserDict(a=LOCK), "data (collections.UserDict, which holds _thread.lock)"),
        (threading.Thread(), "data (threading.Thread, which holds _thread.lock)"),
    ],
)
def test_the_way_to_what_an_argument_holds(value, path):
    text = message(takes, value)
    assert text.startswith("data (a ")
    assert f": {path}" in text


def test_an_argument_that_is_it_itself():
    what = "more (a _thread.lock) cannot be sent to the step: cannot pickle '_thread.lock' object. Create"
    assert message(takes, 1, more=LOCK).startswith(what)


def test_the_class_of_an_argument():
    text = message(takes, WithLock())
    assert text.startswith("the function takes cannot be sent: cannot pickle '_thread.lock' object: data ->")
    assert ": data -> WithLock.lock (_thread.lock). " in text
    assert ": data[0] -> LOCK (_thread.lock)" in message(takes, [lambda: LOCK])


def test_pickling_alone_runs_code_of_the_user():
    class Watched:
        def __init__(self):
            self.calls = []
            self.lock = LOCK

        def __getattr__(self, name):
            raise AssertionError(name)

        def __eq__(self, other):
            raise AssertionError

        def __repr__(self):
            raise AssertionError

        def __reduce_ex__(self, protocol):
            return object, (), {"lock": object.__getattribute__(self, "lock")}

        __hash__ = None

    assert ": data['watched'].lock (_thread.lock)" in message(takes, {"watched": Watched()})


def test_a_large_value_has_its_way_too():
    value = [list(range(1000)) for _ in range(100)] + [{"deep": [[[[[[[[[LOCK]]]]]]]]]}]
    text = message(takes, value)
    assert re.search(r": data\[100\]\['deep'\]\[0\] \.\.\. \[0\]\[0\]\[0\] \(_thread\.lock\)", text)


def test_the_last_of_many_objects():
    value = [{"number": number, "items": [number]} for number in range(100_000)] + [{"lock": LOCK}]
    assert ": data[100000]['lock'] (_thread.lock). " in message(takes, value)


def test_recursion_that_is_too_deep_has_no_way():
    value = []
    for _ in range(100_000):
        value = [value]
    text = message(takes, [value, pickle])
    assert "recursion" in text
    assert "->" not in text
    while value:
        value = value.pop()


def test_a_value_that_pickles_at_the_second_time_has_the_old_message():
    tries = []

    class Moody:
        def __reduce__(self):
            tries.append(1)
            if len(tries) == 1:
                raise TypeError("not today")
            return object, ()

    text = message(takes, Moody())
    assert "cannot be sent to the step: not today. Pass plain data" in text
