"""The statuses of a sandbox that has ended: ``GenericResult.GenericStatus`` without its prefix.

Source: ``modal_proto/api_pb2.pyi`` of the package ``modal`` 1.6.4.
"""

from __future__ import annotations

import re

from airflow_stepop.hooks.common.state_table import StateTable
from airflow_stepop.job import JobState

SUCCESS, FAILURE, TERMINATED, TIMEOUT = "SUCCESS", "FAILURE", "TERMINATED", "TIMEOUT"
INIT_FAILURE, INTERNAL_FAILURE, IDLE_TIMEOUT = "INIT_FAILURE", "INTERNAL_FAILURE", "IDLE_TIMEOUT"
OOM_KILL, THRASHING = "KERNEL_OOM_KILL", "MEMORY_THRASHING_EVICTION"
EVICTION = "MEMORY_MANAGER_EVICTION"
UNKNOWN = "UNKNOWN"  # it has ended, and nobody knows how: our own word
QUEUED, RUNNING = "QUEUED", "RUNNING"  # our own words: the service has none

STATES = StateTable(
    "Modal",
    {
        "UNSPECIFIED": JobState.RUNNING,  # it has not ended
        SUCCESS: JobState.SUCCEEDED,  # or the command did not run: see status.py
        FAILURE: JobState.FAILED,
        TERMINATED: JobState.CANCELLED,  # or the machine was taken away: see failures.py
        TIMEOUT: JobState.FAILED,
        INIT_FAILURE: JobState.FAILED,
        INTERNAL_FAILURE: JobState.FAILED,
        IDLE_TIMEOUT: JobState.FAILED,
        EVICTION: JobState.FAILED,
        THRASHING: JobState.FAILED,
        OOM_KILL: JobState.FAILED,
    },
)
_WITH_GPU = re.compile(r"sb-[0-9A-Za-z]{22}")


def has_gpu_form(sandbox_id: str) -> bool:
    """Return whether an id is that of the older kind of sandbox, which every sandbox with a GPU is.

    Modal may take the machine of such a sandbox away, and frees its name when it has ended.
    """
    return _WITH_GPU.fullmatch(sandbox_id) is not None
