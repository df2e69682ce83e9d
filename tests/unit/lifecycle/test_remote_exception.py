"""A step's exception is raised again in the worker, with all that can travel: class, text, attributes."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import socket
import subprocess
import sys
import traceback
import types
import urllib.error
from http import HTTPStatus

import pytest
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSkipException,
)

from airflow_stepop.failure import Failure, StepFailedError
from airflow_stepop.lifecycle.remote_exception import to_exception
from airflow_stepop.lifecycle.truncation import fit_to_state
from airflow_stepop.payload.code_archive import Project
from airflow_stepop.runner.exception_data import failure_of

calls = []


class ApiError(Exception):
    """Its constructor needs more than ``args`` has."""

    status = 500  # a default, which an instance changes
    retries = None

    def __init__(self, message, *, status, body):
        calls.append(type(self).__name__)
        super().__init__(message)
        self.status = status
        self.body = body
        self.client = socket.socket
        self.retries = None

    def __reduce__(self):
        calls.append("__reduce__")
        return (ApiError, ("forged",))

    def __setattr__(self, name, value):
        calls.append(f"set {name}")
        super().__setattr__(name, value)


class Told(Exception):  # noqa: N818
    """Its text needs what cannot travel."""

    def __init__(self, where):
        super().__init__(where)
        self.where = where

    def __str__(self):
        return f"lost at {self.where.name}"


class Guarded(Exception):  # noqa: N818
    """Has names that an attribute must not hide."""

    def __init__(self):
        super().__init__("guarded")
        self.__dict__.update(method="x", prop="x", add_note="x", own="x")

    def method(self):
        return "a method"

    @property
    def prop(self):
        return "a property"


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):  # noqa: N818
    code: int
    text: str = "default"


class Slotted(Exception):  # noqa: N818
    __slots__ = ("code", "unset", "where")

    def __init__(self, code, where):
        self.code = code
        self.where = where

    def __str__(self):
        return f"{self.code} at {self.where}"


class Group(ExceptionGroup):
    pass


class Upload(OSError):  # noqa: N818
    def __init__(self, path):
        super().__init__(errno.ENOSPC, "no space", path)
        self.path = path


def raised_again(error, *, through=lambda failure: failure):
    """Return the exception of the task whose step raised ``error``."""
    failure = failure_of(caught(throw, error))
    calls.clear()
    found = to_exception(through(Failure.from_json(json.loads(json.dumps(failure)))), "job 1")
    assert str(found) == str(error)
    assert calls == []
    return found


def throw(error):
    raise error


def caught(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


BUILTIN = {
    "open": (lambda: caught(open, "/no/such/file"), {"errno": 2, "filename": "/no/such/file"}),
    "rename": (lambda: caught(os.rename, "/no/a", "/no/b"), {"filename": "/no/a", "filename2": "/no/b"}),
    "bytes_name": (lambda: caught(open, b"/no/\xff"), {"filename": b"/no/\xff"}),
    "errno_only": (lambda: OSError(errno.EACCES, "denied"), {"errno": errno.EACCES, "filename": None}),
    "no_errno": (lambda: OSError("just text"), {"errno": None, "args": ("just text",)}),
    "address": (lambda: socket.gaierror(-2, "unknown"), {"errno": -2, "strerror": "unknown"}),
    "decode": (
        lambda: caught(b"ab\xff".decode),
        {"object": b"ab\xff", "start": 2, "reason": "invalid start byte"},
    ),
    "encode": (lambda: caught("aé".encode, "ascii"), {"object": "aé", "encoding": "ascii", "end": 2}),
    "syntax": (
        lambda: caught(compile, "a b", "x.py", "exec"),
        {"lineno": 1, "filename": "x.py", "text": "a b\n"},
    ),
    "indentation": (
        lambda: caught(compile, " a\nb", "x.py", "exec"),
        {"msg": "unexpected indent", "lineno": 1},
    ),
    "import": (lambda: caught(__import__, "no_such_module"), {"name": "no_such_module"}),
    "name": (lambda: caught(eval, "no_such_name"), {"name": "no_such_name"}),
    "attribute": (lambda: caught(lambda: (1).no_such), {"name": "no_such", "obj": 1}),
    "key": (lambda: KeyError(("a", 1)), {"args": (("a", 1),)}),
    "stop": (lambda: StopIteration(b"7"), {"value": b"7"}),
    "bytes": (lambda: ValueError(b"\x00\xff", 1.5), {"args": (b"\x00\xff", 1.5)}),
    "empty": (RuntimeError, {"args": ()}),
}


@pytest.mark.parametrize("name", BUILTIN)
def test_a_builtin_exception_has_its_fields(name):
    make, fields = BUILTIN[name]
    error = make()
    found = raised_again(error)
    assert type(found) is type(error)
    assert {field: getattr(found, field) for field in fields} == fields
    assert found.args == error.args
    assert isinstance(found.__cause__, StepFailedError)


def test_attributes_beside_args_come_back_and_no_code_of_the_class_runs():
    found = raised_again(ApiError("unavailable", status=503, body=b"\x00"))
    assert isinstance(found, ApiError)
    found.later = 1  # not by the __setattr__ of the class
    assert calls == []
    assert (found.status, found.body, found.args, found.retries) == (503, b"\x00", ("unavailable",), None)
    assert not hasattr(found, "client")


def test_a_text_that_cannot_be_made_here_is_still_the_text():
    found = raised_again(Told(types.SimpleNamespace(name="sea")))
    assert isinstance(found, Told)
    assert type(found).__name__ == "Told"
    assert type(found).__module__ == Told.__module__


def test_names_that_the_class_defines_keep_their_meaning():
    found = raised_again(Guarded())
    assert (found.method(), found.prop, found.own) == ("a method", "a property", "x")
    found.add_note("works")


def test_a_frozen_dataclass():
    found = raised_again(Frozen(7, "why"))
    assert (type(found).__qualname__, found.code, found.text) == ("Frozen", 7, "why")
    assert isinstance(found, Frozen)

    @contextlib.contextmanager
    def sets_the_traceback():
        yield

    with pytest.raises(Frozen), sets_the_traceback():
        raise found


class Both(KeyError, AttributeError):  # noqa: N818
    def __new__(cls, *args):
        calls.append("__new__")
        return super().__new__(cls, *args)


def test_a_class_with_several_builtin_bases():
    found = raised_again(Both("a", 1))
    assert (type(found), found.args) == (Both, ("a", 1))


def test_attributes_in_slots():
    found = raised_again(Slotted(7, b"here"))
    assert (type(found), found.code, found.where, hasattr(found, "unset")) == (Slotted, 7, b"here", False)


def test_a_subclass_of_a_builtin_class_with_fields():
    found = raised_again(Upload("/data/x"))
    assert (type(found), found.errno, found.filename, found.path) == (
        Upload,
        errno.ENOSPC,
        "/data/x",
        "/data/x",
    )


def test_exceptions_of_the_standard_library():
    found = raised_again(urllib.error.HTTPError("http://x", 404, "Not Found", {}, None))
    assert (type(found), found.code, found.reason) == (urllib.error.HTTPError, 404, "Not Found")
    found = raised_again(caught(json.loads, "{"))
    assert (found.doc, found.pos, found.lineno, found.colno) == ("{", 1, 1, 2)
    found = raised_again(subprocess.CalledProcessError(3, ["ls", "-l"], b"out", b"err"))
    assert (found.returncode, found.cmd, found.output, found.stderr) == (3, ["ls", "-l"], b"out", b"err")


@pytest.mark.parametrize("kind", [ExceptionGroup, Group])
def test_groups(kind):
    class LocalError(Exception):
        pass

    members = [OSError(2, "gone", "a.csv"), kind("inner", [ValueError(b"x")]), LocalError("here only")]
    found = raised_again(kind("several", members))
    assert type(found) is kind
    assert found.message == "several"
    first, second, third = found.exceptions
    assert (type(first), first.filename) == (FileNotFoundError, "a.csv")
    assert second.exceptions[0].args == (b"x",)
    assert (type(third), str(third)) == (
        StepFailedError,
        "test_groups.<locals>.LocalError: here only\n  why: user_error",
    )
    matched, _ = found.split(ValueError)
    assert matched is not None


def test_a_group_with_more_members_than_travel():
    found = raised_again(ExceptionGroup("many", [ValueError(number) for number in range(50)]))
    assert len(found.exceptions) == 8


def test_notes():
    error = ValueError("x")
    error.add_note("look here")
    assert raised_again(error).__notes__ == ["look here"]


def test_an_exception_with_too_much_data_keeps_its_text():
    found = raised_again(caught((b"a" * 100_000 + b"\xff").decode))
    assert type(found).__name__ == "UnicodeDecodeError"
    assert isinstance(found, UnicodeDecodeError)
    error = ApiError("x" * 9000, status=503, body=b"y" * 100_000)
    found = raised_again(error)
    assert (found.status, hasattr(found, "body")) == (503, False)


def test_a_failure_that_the_record_shortens():
    error = ApiError("short", status=503, body=b"y")
    error.__cause__ = ValueError("z" * 60_000)
    assert raised_again(error, through=fit_to_state).status == 503


@pytest.mark.parametrize(
    "damage",
    [
        {"args": [["pickle", "gASVAgAAAAAAAABOLg=="]]},
        {"args": [["json", "{"]]},
        {"args": [["bytes", "***"]]},
        {"args": ["no pair"]},
        {"args": [1]},
        {"attributes": {"filename": 1, "x": ["json"], "y": None}},
        {"exceptions": [None, 1], "notes": [1, None]},
    ],
)
def test_damaged_data_of_an_exception_never_fails_the_worker(damage):
    failure = failure_of(ValueError("the text"))
    failure["exception"].update(damage)
    assert str(to_exception(Failure.from_json(failure), "")) == "the text"


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("UnicodeDecodeError", ["utf-8", ["bytes", "eA=="], -(10**15), 1 - 10**15, "bad"]),
        ("UnicodeDecodeError", ["utf-8", 5, 0, 1, "bad"]),
        ("SyntaxError", ["bad", ["x.py", 1, 1, "x", 1, 10**12]]),
        ("SyntaxError", ["bad", ["x.py", 1, 1, 5, 1, 1]]),
    ],
)
def test_positions_outside_of_the_text_are_not_followed(kind, args):
    """A step that was taken over cannot crash the worker, or fill its memory."""
    failure = failure_of(ValueError("the text"))
    pairs = [
        one if isinstance(one, list) and one[0] == "bytes" else ["json", json.dumps(one)] for one in args
    ]
    failure["exception"].update({"qualname": kind, "args": pairs})
    error = to_exception(Failure.from_json(failure), "")
    assert "the text" in str(error)


@pytest.mark.parametrize("status", [HTTPStatus.NOT_FOUND, True, 404])
def test_a_number_of_a_subclass(status):
    """Otherwise the attribute would seem to have the default of its class."""
    found = raised_again(ApiError("x", status=status, body=b""))
    assert found.status == status


def remote(module, qualname, *mro):
    """Return the failure of a step that raised this class."""
    data = failure_of(caught(throw, ValueError("the text")))
    raised = {"module": module, "qualname": qualname, "mro": [f"{module}.{qualname}", *mro]}
    return Failure.from_json({**data, "exception": {**data["exception"], **raised}})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Return a project with a module that nobody has imported."""
    (tmp_path / "ours_only").mkdir()
    (tmp_path / "ours_only" / "errors.py").write_text("class Bad(ValueError): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield Project.of(tmp_path / "dag.py", None)
    for name in [name for name in sys.modules if name.startswith("ours_only")]:
        del sys.modules[name]


def test_a_module_of_the_project_is_imported(project):
    failure = remote("ours_only.errors", "Bad")
    assert type(to_exception(failure, "")) is StepFailedError
    found = to_exception(failure, "", project=project)
    assert (type(found).__module__, type(found).__name__) == ("ours_only.errors", "Bad")
    assert str(found) == "the text"


@pytest.mark.parametrize(
    "module", ["this", "antigravity", "idlelib.idle", "no.such.module", "..", "", "a\0b"]
)
def test_no_other_module_is_imported(project, module):
    """The step names the module, and to import one runs its code."""
    assert module not in sys.modules
    assert type(to_exception(remote(module, "Error"), "", project=project)) is StepFailedError
    assert module not in sys.modules


def test_a_package_that_is_partly_of_the_project_brings_no_other_module(
    project, tmp_path_factory, monkeypatch
):
    """Without an ``__init__.py``, a folder of the project and one of another place are one package."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "ours_only").mkdir()
    (elsewhere / "ours_only" / "installed.py").write_text("class Bad(ValueError): pass\n")
    monkeypatch.syspath_prepend(elsewhere)
    found = to_exception(remote("ours_only.installed", "Bad"), "", project=project)
    assert type(found) is StepFailedError
    assert "ours_only.installed" not in sys.modules
    assert type(to_exception(remote("ours_only.errors", "Bad"), "", project=project)).__name__ == "Bad"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("airflow.sdk.exceptions", "AirflowRescheduleException"),
        ("airflow.sdk.exceptions", "DagRunTriggerException"),
        ("airflow.sdk.exceptions", "DownstreamTasksSkipped"),
        ("airflow.sdk.exceptions", "TaskDeferred"),
        ("airflow.sdk.exceptions", "AirflowInactiveAssetInInletOrOutletException"),
        ("airflow_stepop.exceptions", "QuotaError"),
        ("airflow_stepop.failure", "StepFailedError"),
        (__name__, "Again"),
    ],
)
def test_a_class_that_means_something_to_airflow_is_not_raised(project, module, name):
    """A step cannot make the worker defer, reschedule or start something else."""
    found = to_exception(remote(module, name), "", project=project)
    assert type(found) is StepFailedError
    assert found.failure.exception["qualname"] == name


class Again(AirflowRescheduleException):
    pass


def test_a_plain_exception_of_airflow_is_raised(project):
    found = to_exception(remote("airflow.sdk.exceptions", "AirflowException"), "", project=project)
    assert type(found) is AirflowException


@pytest.mark.parametrize(
    "cls", [ValueError, KeyError, OSError, Told, AirflowSkipException, AirflowFailException]
)
def test_the_text_of_an_exception_is_harmless(project, cls):
    """Airflow writes it into its log, and a terminal obeys escape sequences."""
    text = "\x1b]0;title\x07\x1b[2Jone\rtwo\u202ethree\n::endgroup::"
    failure = failure_of(caught(throw, ValueError(text)))
    mro = [f"{cls.__module__}.{cls.__name__}"]
    raised = {**failure["exception"], "module": cls.__module__, "qualname": cls.__qualname__, "mro": mro}
    found = to_exception(Failure.from_json({**failure, "exception": raised}), "job 1", project=project)
    assert isinstance(found, cls)
    assert str(found) == "one␍two\ufffdthree\n[endgroup] "
    shown = "".join(traceback.format_exception(found))
    assert not {"\x1b", "\r", "\u202e", "\x07"} & set(shown)
    assert "::endgroup::" not in shown
