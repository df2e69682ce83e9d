"""Turns a failure into the exception that the task raises; called by :class:`WorkerSession`."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace

from airflow_stepop.failure import Category, Failure, StepFailedError

INSTALL = (
    "if it is a package, requirements=[...] installs it in the step, or use an image that has it; if it is a "
    "module of yours, see which files include= ships"
)


def to_exception(failure: Failure, where: str, next_memory: str | None = None) -> Exception:
    """Return the exception that the task raises.

    If the step failed with a ``user_error`` and the class of its exception can be imported here, the task
    raises the step's own exception with a ``StepFailedError`` as its cause. Otherwise the task raises the
    ``StepFailedError``.

    ``AirflowSkipException`` and ``AirflowFailException`` are recognised by the names of the exception's
    classes. So a step can raise classes of these names without having Airflow.

    :param where: the job and its page, for the message
    :param next_memory: see :class:`StepFailedError`
    """
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    remote = failure.exception
    if remote is not None and remote.get("qualname") == "ModuleNotFoundError" and not failure.hint:
        failure = replace(failure, hint=INSTALL)
    failed = StepFailedError(failure, where, next_memory)
    if remote is None or failure.category is not Category.USER_ERROR:
        return failed
    names = {name.rpartition(".")[2] for name in remote.get("mro", ())}
    message = str(remote.get("message", ""))
    if "AirflowSkipException" in names:
        return AirflowSkipException(message)
    if "AirflowFailException" in names:
        error: Exception = AirflowFailException(message)
    else:
        error = _rebuild(remote) or failed
    if error is not failed:
        error.__cause__ = failed
    return error


def _rebuild(remote: Mapping[str, object]) -> Exception | None:
    """Return an exception of the same class with the same arguments, without a call of its ``__init__``."""
    cls = _find(str(remote.get("module", "")), str(remote.get("qualname", "")))
    if cls is None:
        return None
    args = remote.get("args")
    try:
        error: Exception = cls.__new__(cls)
        error.args = tuple(args) if isinstance(args, list) else (remote.get("message", ""),)
        str(error)
    except Exception:  # noqa: BLE001, RUF100 - a user's class may raise anything
        return None
    return error


def _find(module: str, qualname: str) -> type[Exception] | None:
    if module == "builtins":
        found: object = getattr(builtins, qualname, None)
    else:
        try:
            found = sys.modules.get(module) or importlib.import_module(module)
        except (Exception, SystemExit):  # noqa: BLE001, RUF100 - a user's module may raise anything
            return None
        for name in qualname.split("."):
            found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
