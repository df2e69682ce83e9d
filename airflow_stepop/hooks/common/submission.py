"""Creates a job once at a service that may lose an answer. A hook's ``submit`` calls :func:`create_once`.

The name of the job makes the creation idempotent: a service accepts a name once. So a create that was sent
twice does no harm there. It would start a second job at a service where names are not unique.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from airflow_stepop.hooks.common.api_errors import Classify, Trouble

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0


def create_once(
    find: Callable[[], T | None],
    create: Callable[[], T],
    classify: Classify,
    *,
    lag_s: float = 0.0,
    taken_lag_s: float = 0.0,
) -> T:
    """Create a job, or return the job that an earlier create has made.

    After an unclear answer (:attr:`Trouble.TRANSIENT`: the service may have created the job), and when the
    service says that the name is taken (:attr:`Trouble.CONFLICT`), the function looks for the job. It sends
    one create per call. So give it a ``create`` without the SDK's own retries.

    :param find: returns the job of this submit, by its name; ``None`` if there is none. It raises an error if
        the job of this name belongs to somebody else
    :param create: sends one request to create the job
    :param classify: ``hook.api_error``
    :param lag_s: how long, in seconds, a new job may be missing in what ``find`` reads
    :param taken_lag_s: the same, if the service says that the name is taken: then there is a job to wait for.
        After an unclear answer, another create under the same name is better than a wait
    :raises Exception: the error of ``create``, if no job is found; an error of ``find``. The caller may then
        call again, if the service accepts a name only once. Otherwise its next call must begin with ``find``
    """
    try:
        return create()
    except Exception as error:
        kind = classify(error).kind
        if kind not in (Trouble.CONFLICT, Trouble.TRANSIENT):
            raise
        found = found_within(find, max(lag_s, taken_lag_s) if kind is Trouble.CONFLICT else lag_s)
        if found is None:
            raise
        return found


def found_within(find: Callable[[], T | None], lag_s: float) -> T | None:
    """Look for a job until it is found, or ``lag_s`` seconds have passed."""
    end, pause_s = time.monotonic() + lag_s, FIRST_PAUSE_S
    while (found := find()) is None and time.monotonic() < end:
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
    return found
