"""A failure becomes the exception that the task raises."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_stepop.failure import Category, Failure, StepFailedError

INSTALL = (
    "a package: requirements=[...] installs it in the step, or take an image that has it; a module of "
    "yours: see what include= ships"
)


def to_exception(failure: Failure, where: str, next_memory: str | None = None) -> Exception:
    """Return what to raise: the step's own exception where its class can be had here, else
    ``StepFailedError``.

    ``AirflowSkipException`` and ``AirflowFailException`` are told by name: the step needs no Airflow to raise
    them.

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


def _rebuild(remote: Mapping[str, Any]) -> Exception | None:
    """Return an exception of the same class with the same arguments; its ``__init__`` is not run."""
    cls = _find(str(remote.get("module", "")), str(remote.get("qualname", "")))
    if cls is None:
        return None
    args = remote.get("args")
    try:
        error: Exception = cls.__new__(cls)
        error.args = tuple(args) if isinstance(args, list) else (remote.get("message", ""),)
        str(error)
    except Exception:  # noqa: BLE001, RUF100 - a class of the user's may refuse in any way
        return None
    return error


def _find(module: str, qualname: str) -> type[Exception] | None:
    if module == "builtins":
        found: Any = getattr(builtins, qualname, None)
    else:
        try:
            found = sys.modules.get(module) or importlib.import_module(module)
        except (Exception, SystemExit):  # noqa: BLE001, RUF100 - importing a module of the user's may do anything
            return None
        for name in qualname.split("."):
            found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
