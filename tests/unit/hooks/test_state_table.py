"""A total table maps native states to the states of a job."""

from __future__ import annotations

import logging

from airflow_stepop.hooks.common.state_table import StateTable
from airflow_stepop.job import JobState


def test_an_unknown_state_is_logged_once_and_counts_as_running(caplog):
    table = StateTable("the service", {"Done": JobState.SUCCEEDED})
    with caplog.at_level(logging.WARNING):
        states = [table.of(native) for native in ("Done", "Odd", "Odd", "Odder")]
    assert states == [JobState.SUCCEEDED, JobState.RUNNING, JobState.RUNNING, JobState.RUNNING]
    assert [record.args[1] for record in caplog.records] == ["Odd", "Odder"]
