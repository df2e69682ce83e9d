"""Whether the job that a service shows under a name is the job of a handle. Every hook asks.

The name of a job has a hash of its nonce, so no two steps have the same name. But whoever may delete and
create jobs at the service can put another job where ours was. That job is not ours: it is neither believed,
nor cancelled, nor deleted, and for our handle the job is gone.

A job is the job of a handle if it has the same nonce and the same instance. Whoever can look at a job can
copy its nonce. The instance (a uid, the time of creation) is given by the service, and nobody can choose it.
"""

from __future__ import annotations

import logging
from typing import NoReturn

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.job import JobHandle

log = logging.getLogger(__name__)

MOST_REPORTED = 1000  # jobs that a process remembers to have warned about
_reported: set[tuple[JobHandle, str, str]] = set()


def is_same_job(handle: JobHandle, *, nonce: str | None, instance: str = "") -> bool:
    """Return whether a job that the service shows under a handle's name is the job of the handle.

    What the handle does not have, or the service does not show, is not compared. The first time that a
    process finds another job, it logs a warning.

    :param handle: its ``nonce`` is that of the record; an old handle has neither nonce nor instance
    :param nonce: nonce of the job; empty: the job has none; ``None``: this answer of the service does not
        show it, as the summary in a list
    :param instance: see :class:`~airflow_stepop.job.JobHandle`; empty: this answer does not show it
    """
    is_other_nonce = bool(handle.nonce) and nonce is not None and nonce != handle.nonce
    is_other_instance = bool(handle.instance and instance) and instance != handle.instance
    if not is_other_nonce and not is_other_instance:
        return True
    found = (handle, nonce or "", instance)
    if found not in _reported:
        if len(_reported) >= MOST_REPORTED:
            _reported.clear()
        _reported.add(found)
        log.warning(
            "%s is gone: another job has its name now (%s). That job is not believed, and it is neither "
            "cancelled nor deleted",
            handle,
            "it has another nonce" if is_other_nonce else "it was created later",
        )
    return False


def refuse_name(what: str, name: str) -> NoReturn:
    """Raise the error for a submit whose name belongs to another job.

    :param what: the service's word for a job: ``training job``
    :raises StepConfigError: always
    """
    raise StepConfigError(
        f"a {what} {name} exists already, and it is not of this step: it has another nonce, or "
        "another Airflow has created it. Clear the task to submit under another name"
    )
