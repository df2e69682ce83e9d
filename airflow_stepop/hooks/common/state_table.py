"""The table from a service's own states to ours. It is total: no word of a service is without an answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from airflow_stepop.job import JobState

log = logging.getLogger(__name__)


class StateTable:
    """Maps every native state of a service to a :class:`JobState`.

    :param service: its name, for the log
    :param states: native state -> state; a test compares it with the SDK's own enum
    """

    def __init__(self, service: str, states: Mapping[str, JobState]) -> None:
        self.service = service
        self.states = dict(states)
        self._reported: set[str] = set()

    def of(self, native: str) -> JobState:
        """Return the state.

        A native state that the table does not have is logged once and counts as RUNNING, so that the step's
        deadline decides and no job is given up that may still run.
        """
        state = self.states.get(native)
        if state is not None:
            return state
        if native not in self._reported:
            self._reported.add(native)
            log.warning(
                "%s reports the state %r, which airflow-stepop does not know: it counts as running until the "
                "step's timeout. Please report it, or update airflow-stepop",
                self.service,
                native,
            )
        return JobState.RUNNING
