"""Classification of the errors of a service's API, the same for every backend.

A backend overrides one method, :meth:`StepHook.api_error`, which maps an exception of its SDK to one
:class:`Trouble`. ``StepHook.is_transient`` and the helpers :func:`explained` and :func:`or_none` use this
method. Hooks call the helpers around requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from airflow_stepop.exceptions import QuotaError, StepConfigError, StepopError

T = TypeVar("T")


class Trouble(StrEnum):
    """Kind of an API error."""

    TRANSIENT = "transient"  # the same call may soon succeed
    QUOTA = "quota"  # the same call may succeed when other jobs have ended
    DENIED = "denied"  # the account lacks the permission
    INVALID = "invalid"  # the service will never accept this request
    CONFLICT = "conflict"  # an object with this name exists already
    NOT_FOUND = "not_found"  # the object, or its parent (for example its namespace), does not exist
    OTHER = "other"  # anything else; the worker does not retry the call


@dataclass(frozen=True)
class ApiError:
    """An error of a service's API.

    :param message: the service's message, for people
    :param code: the service's own error code
    """

    kind: Trouble
    message: str
    code: str = ""


Classify = Callable[[Exception], ApiError]  # StepHook.api_error, or a function that it uses


@contextmanager
def explained(classify: Classify, texts: Mapping[Trouble, str]) -> Iterator[None]:
    """Context manager: replace an error of the service by an error of this provider with an explanation.

    :param classify: ``hook.api_error``
    :param texts: kind of error -> text to put in front of the service's message. An error of any other kind
        is raised unchanged
    :raises QuotaError: for :attr:`Trouble.QUOTA`
    :raises StepConfigError: for every other kind in ``texts``
    """
    try:
        yield
    except StepopError:
        raise
    except Exception as error:
        found = classify(error)
        if found.kind not in texts:
            raise
        text = f"{texts[found.kind]}: {found.message}"
        if found.kind is Trouble.QUOTA:
            raise QuotaError(text) from error
        raise StepConfigError(text) from None


def or_none(classify: Classify, call: Callable[[], T], *kinds: Trouble) -> T | None:
    """Return the result of ``call``, or ``None`` if it raises an error of one of ``kinds``.

    :param classify: ``hook.api_error``
    :raises Exception: an error of any other kind
    """
    try:
        return call()
    except Exception as error:
        if classify(error).kind in kinds:
            return None
        raise
