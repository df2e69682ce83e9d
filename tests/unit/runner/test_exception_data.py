"""Exceptions as data: complete enough to be shown and raised again, bounded whatever they are."""

from __future__ import annotations

import enum
import json
import pickle
import subprocess
import sys

import pytest

from airflow_stepop.failure import Failure
from airflow_stepop.runner.exception_data import describe, failure_of


def raised(function, *args):
    try:
        function(*args)
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def test_exception_of_a_step(folder, any_python):
    """Type, message, traceback with source, and bases arrive, and the log shows what Python would."""
    source = """
class AirflowFailException(Exception): pass
def inner(): raise AirflowFailException("no", 3)
def f(): inner()
"""
    done = folder.reference(source, "f").run(any_python)
    exception = done.failure["exception"]
    assert done.failure["summary"] == "The step raised AirflowFailException: ('no', 3)"
    assert exception["module"] == "helpers"
    assert exception["mro"] == [
        "helpers.AirflowFailException",
        "builtins.Exception",
        "builtins.BaseException",
        "builtins.object",
    ]
    assert exception["args"] == [["json", '"no"'], ["json", "3"]]
    lines = [line for line in exception["traceback"] if not set(line.strip()) <= {"^", "~"}]
    assert lines[0].endswith('helpers.py", line 4, in f')
    assert lines[1] == "    def f(): inner()"
    assert len(lines) == 4
    assert done.stderr.startswith("Traceback (most recent call last):\n")
    assert done.stderr.endswith("helpers.AirflowFailException: ('no', 3)\n")
    assert "step.pyz" not in done.stderr
    assert Failure.from_json(done.failure).exception == exception


def test_exception_of_a_pickled_function(folder):
    """A function without a source file there still has file and line of the DAG file."""

    def f():
        raise KeyError("x")

    traceback = folder.function(f).run().failure["exception"]["traceback"]
    assert traceback[0].endswith(f'test_exception_data.py", line {f.__code__.co_firstlineno + 1}, in f')


@pytest.mark.parametrize("stream", ["io.StringIO()", "None", "open('/dev/null', 'w')"])
def test_the_log_has_an_exception_wherever_the_step_prints(folder, edge_python, stream):
    body = f"sys.stderr = sys.stdout = {stream}\n    raise ValueError('x \\udcff')"
    done = folder.reference(f"import io, sys\ndef f():\n    {body}\n", "f").run(edge_python)
    assert done.stderr.splitlines()[-1] == "ValueError: x \\udcff"


def test_a_returned_function_has_its_file(folder):
    """Tracebacks name it where the result is used, too."""
    done = folder.reference("def f(): return lambda: 1\n", "f").run()
    returned = done.value(lambda data, buffers: pickle.loads(data, buffers=buffers))
    assert returned.__code__.co_filename.endswith("/helpers.py")


def test_traceback_of_a_coroutine(folder):
    """The frames of asyncio are not the step's."""
    done = folder.reference("async def f(): raise ValueError('x')\n", "f").run()
    assert len([line for line in done.failure["exception"]["traceback"] if "File" in line]) == 1


def test_cause_and_context():
    """Causes and contexts are nested."""

    def fail(error):
        raise error

    def fail_from(error):
        raise KeyError("middle") from error

    def chain():
        try:
            int("x")
        except ValueError as error:
            try:
                fail_from(error)
            except KeyError:
                fail(TypeError("last"))

    data = describe(raised(chain))
    assert data["cause"] is None
    assert data["context"]["type"] == "KeyError"
    assert data["context"]["cause"]["type"] == "ValueError"

    def hidden():
        try:
            int("x")
        except ValueError:
            raise TypeError from None

    assert describe(raised(hidden))["context"] is None


def test_cycles_and_long_chains():
    """A cycle of causes ends, and so does a chain of a thousand."""
    first, second = ValueError(1), ValueError(2)
    first.__cause__, second.__cause__ = second, first
    data = describe(first)
    assert data["cause"]["cause"] is None
    error = ValueError(0)
    for number in range(1000):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    depth, data = 0, describe(error)
    while data:
        depth, data = depth + 1, data["cause"]
    assert depth == 8


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups")
def test_groups_and_notes():
    """The members of a group are there, and so are notes."""
    error = ExceptionGroup("several", [ValueError(1), KeyError(2)])
    error.add_note("look here")
    data = describe(error)
    assert [member["type"] for member in data["exceptions"]] == ["ValueError", "KeyError"]
    assert data["notes"] == ["look here"]


class Rude(Exception):  # noqa: N818
    """Raises wherever it is asked."""

    def __init__(self, *args, **kwargs):
        super().__init__(object())

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__

    def __getattr__(self, name):
        raise LookupError(name)


def test_exception_that_does_not_cooperate():
    """An exception whose methods raise is described as far as it can be."""
    failure = failure_of(Rude())
    assert failure["summary"] == "The step raised Rude: <Rude, whose __str__ raises RuntimeError>"
    assert failure["exception"]["args"] is None
    json.dumps(failure)


def test_bounds():
    """A deep recursion with an endless message stays small."""

    def recurse(n):
        if n:
            return recurse(n - 1) if n % 2 else recurse_again(n)
        raise ValueError("x" * 10**6)

    def recurse_again(n):
        return recurse(n - 1)

    data = describe(raised(recurse, 300))
    assert len(data["traceback"]) <= 200
    assert any("lines left out" in line for line in data["traceback"])
    assert "raise ValueError" in "".join(data["traceback"][-3:])
    assert len(json.dumps(data)) < 200_000
    assert len(failure_of(ValueError("y" * 10**6))["summary"]) == 500


class Exit(enum.IntEnum):
    OK = 0
    BAD = 7


CODES = {
    "nothing": (SystemExit(), 0, "sys.exit() and returned nothing"),
    "0": (SystemExit(0), 0, "sys.exit() and returned nothing"),
    "false": (SystemExit(False), 0, "sys.exit() and returned nothing"),
    "true": (SystemExit(True), 1, "sys.exit(True)"),
    "negative": (SystemExit(-1), 255, "sys.exit(-1)"),
    "256": (SystemExit(256), 0, "sys.exit() and returned nothing"),
    "300": (SystemExit(300), 44, "sys.exit(300)"),
    "huge": (SystemExit(2**70), 255, f"sys.exit({2**70})"),
    "enum": (SystemExit(Exit.BAD), 7, "sys.exit(7)"),
    "enum of 0": (SystemExit(Exit.OK), 0, "sys.exit() and returned nothing"),
    "float": (SystemExit(2.5), 1, "sys.exit: 2.5"),
    "nan": (SystemExit(float("nan")), 1, "sys.exit: nan"),
    "text": (SystemExit("why"), 1, "sys.exit: why"),
    "empty text": (SystemExit(""), 1, "sys.exit: "),
    "tuple": (SystemExit(3, 4), 1, "sys.exit: (3, 4)"),
    "tuple of one": (SystemExit(*(3,)), 3, "sys.exit(3)"),
    "list": (SystemExit([]), 1, "sys.exit: []"),
    "bytes": (SystemExit(b"x"), 1, "sys.exit: b'x'"),
    "exception": (SystemExit(ValueError("why")), 1, "sys.exit: why"),
    "rude": (SystemExit(Rude()), 1, "sys.exit: <Rude, whose __str__ raises RuntimeError>"),
}


@pytest.mark.parametrize("name", CODES)
def test_exit_codes_are_those_of_python(name):
    """Whatever the code is, the outcome is well-formed: a damaged one would run the step again."""
    error, status, text = CODES[name]
    failure = json.loads(json.dumps(failure_of(error)))
    assert failure["summary"] == f"The step called {text}"
    found = Failure.from_json(failure)
    assert (found.category, found.exit_code) == ("user_error", status)
    same = SystemExit("x") if name == "rude" else error  # the class of the text does not matter to Python
    code = f"import pickle, sys; sys.path[:0] = {sys.path!r}; raise pickle.loads(sys.stdin.buffer.read())"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(same), capture_output=True)
    assert done.returncode == status, done.stderr


def test_interrupt():
    """KeyboardInterrupt counts as cancelled."""
    assert failure_of(KeyboardInterrupt())["category"] == "cancelled"
