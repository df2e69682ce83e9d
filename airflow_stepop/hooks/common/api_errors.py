"""What an error of a service's API means, in words that are the same for every backend.

A backend overrides one method, :meth:`StepHook.api_error`, which puts an exception of its SDK into one
:class:`Trouble`. The rest follows: ``is_transient``, and the helpers :func:`explained` and :func:`or_none`.
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
    """What kind of error it is."""

    TRANSIENT = "transient"  # the same call may succeed in a moment
    QUOTA = "quota"  # the same call may succeed when other jobs have ended
    DENIED = "denied"  # the account may not do this
    INVALID = "invalid"  # the service refuses the request as it is
    CONFLICT = "conflict"  # there is an object of that name already
    NOT_FOUND = "not_found"  # there is no such object, or no place where it could be
    OTHER = "other"  # anything else; a worker does not repeat the call


@dataclass(frozen=True)
class ApiError:
    """An error of a service's API.

    :param message: what the service says, for people
    :param code: the service's own code for the error
    """

    kind: Trouble
    message: str
    code: str = ""


Classify = Callable[[Exception], ApiError]  # StepHook.api_error, or what it is made of


@contextmanager
def explained(classify: Classify, texts: Mapping[Trouble, str]) -> Iterator[None]:
    """Turn errors of the service into errors of ours, which say what went wrong and for whom.

    :param classify: ``hook.api_error``
    :param texts: what to say of each kind, in front of the service's own message. A kind that is not in it is
        raised as it is
    :raises QuotaError: :attr:`Trouble.QUOTA`
    :raises StepConfigError: any other kind of ``texts``
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
    """Return what ``call`` returns; ``None`` when it raises an error of one of ``kinds``.

    :param classify: ``hook.api_error``
    :raises Exception: an error of any other kind
    """
    try:
        return call()
    except Exception as error:
        if classify(error).kind in kinds:
            return None
        raise
