"""The table from a service's native states to :class:`JobState`. A hook's ``status`` uses it.

The table is total: every word of the service has a :class:`JobState`, also a word that the table does not
list.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from airflow_stepop.job import JobState

log = logging.getLogger(__name__)


class StateTable:
    """Maps every native state of a service to a :class:`JobState`.

    :param service: name of the service, for the log
    :param states: native state -> state; a test compares the native states with the SDK's own enum
    """

    def __init__(self, service: str, states: Mapping[str, JobState]) -> None:
        self.service = service
        self.states = dict(states)
        self._reported: set[str] = set()

    def of(self, native: str) -> JobState:
        """Return the state for the native state ``native``.

        A native state that is not in the table counts as RUNNING and is logged once. So the task never gives
        up a job that may still run; the step's deadline ends it.
        """
        state = self.states.get(native)
        if state is not None:
            return state
        if native not in self._reported:
            self._reported.add(native)
            log.warning(
                "%s reports the state %r, which airflow-stepop does not know. The job counts as running "
                "until the step's timeout. Please update airflow-stepop, or report this state",
                self.service,
                native,
            )
        return JobState.RUNNING
