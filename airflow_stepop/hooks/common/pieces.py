"""The table of the pieces that backends share: name -> module. ``hooks/base.py`` offers all of these names.

A piece is imported on first use: a trigger loads ``hooks/base.py`` and needs few of the pieces.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.hooks.common.api_errors import explained, or_none
    from airflow_stepop.hooks.common.checks import Check, run_checks
    from airflow_stepop.hooks.common.failure_rules import Rule, failure_by
    from airflow_stepop.hooks.common.input_files import InputFile, input_files
    from airflow_stepop.hooks.common.labels import LabelRules, matches
    from airflow_stepop.hooks.common.listing import Listing
    from airflow_stepop.hooks.common.log_cursors import (
        LogEvent,
        OffsetCursor,
        TimeCursor,
        split_lines,
        visible,
    )
    from airflow_stepop.hooks.common.machines import Machine, Machines
    from airflow_stepop.hooks.common.rate_limit import RateLimit
    from airflow_stepop.hooks.common.receipts import (
        Receipt,
        find_receipt,
        is_of_runner,
        parse_receipt,
        receipt_of,
        receipt_text,
        report,
    )
    from airflow_stepop.hooks.common.runner_command import runner_argv, step_env
    from airflow_stepop.hooks.common.same_job import is_same_job, refuse_name
    from airflow_stepop.hooks.common.sealing import seal_key
    from airflow_stepop.hooks.common.staging import Staged, remove_sealed, stage, unstage
    from airflow_stepop.hooks.common.state_table import StateTable
    from airflow_stepop.hooks.common.submission import create_once
    from airflow_stepop.hooks.common.zipapp import runner_zipapp
    from airflow_stepop.stores.folder import THIS_HOST, folder_of
    from airflow_stepop.stores.paths import job_path

_HERE = "airflow_stepop.hooks.common"
_LAZY = {  # name -> its module
    "Check": f"{_HERE}.checks",
    "InputFile": f"{_HERE}.input_files",
    "LabelRules": f"{_HERE}.labels",
    "Listing": f"{_HERE}.listing",
    "LogEvent": f"{_HERE}.log_cursors",
    "OffsetCursor": f"{_HERE}.log_cursors",
    "RateLimit": f"{_HERE}.rate_limit",
    "Machine": f"{_HERE}.machines",
    "Machines": f"{_HERE}.machines",
    "Receipt": f"{_HERE}.receipts",
    "Rule": f"{_HERE}.failure_rules",
    "Staged": f"{_HERE}.staging",
    "StateTable": f"{_HERE}.state_table",
    "THIS_HOST": "airflow_stepop.stores.folder",
    "TimeCursor": f"{_HERE}.log_cursors",
    "create_once": f"{_HERE}.submission",
    "explained": f"{_HERE}.api_errors",
    "failure_by": f"{_HERE}.failure_rules",
    "find_receipt": f"{_HERE}.receipts",
    "folder_of": "airflow_stepop.stores.folder",
    "input_files": f"{_HERE}.input_files",
    "is_of_runner": f"{_HERE}.receipts",
    "is_same_job": f"{_HERE}.same_job",
    "job_path": "airflow_stepop.stores.paths",
    "matches": f"{_HERE}.labels",
    "or_none": f"{_HERE}.api_errors",
    "parse_receipt": f"{_HERE}.receipts",
    "receipt_of": f"{_HERE}.receipts",
    "receipt_text": f"{_HERE}.receipts",
    "refuse_name": f"{_HERE}.same_job",
    "remove_sealed": f"{_HERE}.staging",
    "report": f"{_HERE}.receipts",
    "run_checks": f"{_HERE}.checks",
    "runner_argv": f"{_HERE}.runner_command",
    "runner_zipapp": f"{_HERE}.zipapp",
    "seal_key": f"{_HERE}.sealing",
    "split_lines": f"{_HERE}.log_cursors",
    "stage": f"{_HERE}.staging",
    "step_env": f"{_HERE}.runner_command",
    "unstage": f"{_HERE}.staging",
    "visible": f"{_HERE}.log_cursors",
}

__all__ = [
    "THIS_HOST",
    "Check",
    "InputFile",
    "LabelRules",
    "Listing",
    "LogEvent",
    "Machine",
    "Machines",
    "OffsetCursor",
    "RateLimit",
    "Receipt",
    "Rule",
    "Staged",
    "StateTable",
    "TimeCursor",
    "create_once",
    "explained",
    "failure_by",
    "find_receipt",
    "folder_of",
    "input_files",
    "is_of_runner",
    "is_same_job",
    "job_path",
    "matches",
    "or_none",
    "parse_receipt",
    "receipt_of",
    "receipt_text",
    "refuse_name",
    "remove_sealed",
    "report",
    "run_checks",
    "runner_argv",
    "runner_zipapp",
    "seal_key",
    "split_lines",
    "stage",
    "step_env",
    "unstage",
    "visible",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_LAZY[name]), name)
