"""Shortens a failure so that Airflow's task state can store it: valid Unicode, less than 64 KB in all.

The lifecycle calls :func:`fit_to_state` before it saves a failure in the record. The step's log has the full
texts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from airflow_stepop.failure import Failure
from airflow_stepop.runner.failures import cut

FAILURE_BYTES = 48_000  # as JSON; the record has more fields, and Airflow's limit for all of it is 64 KB
_LEFT_OUT = "… left out here; see the log of the step …"


def fit_to_state(failure: Failure) -> Failure:
    """Return ``failure`` in at most ``FAILURE_BYTES`` of JSON.

    The least useful parts go first: chained exceptions, then the oldest lines and the ends of texts.
    """
    failure = Failure.from_json(escaped(failure.to_json()))
    for shorter in _shorter(failure):
        failure = shorter(failure)
        if len(json.dumps(failure.to_json())) <= FAILURE_BYTES:
            break
    return failure


def escaped(value: object) -> object:
    """Return JSON with lone surrogates written as escapes, since Airflow's messages cannot carry them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {escaped(key): escaped(item) for key, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, (list, tuple)) else value


def _shorter(failure: Failure) -> Iterator[Callable[[Failure], Failure]]:
    yield lambda failure: failure
    yield lambda failure: _with_exception(failure, cause=None, context=None, exceptions=[])
    for lines, characters in ((100, 400), (40, 200), (20, 100), (5, 50)):
        yield partial(_shortened, lines=lines, characters=characters)


def _with_exception(failure: Failure, **fields: object) -> Failure:
    return replace(failure, exception={**failure.exception, **fields} if failure.exception else None)


def _shortened(failure: Failure, lines: int, characters: int) -> Failure:
    """Return ``failure`` with only its last ``lines`` lines, and with each text cut."""
    exception = failure.exception or {}
    shorter = _with_exception(
        failure,
        message=cut(str(exception.get("message", "")), 10 * characters),
        traceback=_last(exception.get("traceback", ()), lines, characters),
        mro=list(exception.get("mro", ()))[:20],
        args=None,
        attributes={},
        notes=[],
    )
    return replace(
        shorter,
        summary=cut(failure.summary, 10 * characters),
        hint=cut(failure.hint, 10 * characters),
        native_reason=cut(failure.native_reason, 10 * characters),
        log_tail=tuple(_last(failure.log_tail, lines, characters)),
    )


def _last(texts: Sequence[str], count: int, characters: int) -> list[str]:
    left_out = [_LEFT_OUT] if len(texts) > count else []
    return [*left_out, *(cut(text, characters) for text in texts[-count:])]
