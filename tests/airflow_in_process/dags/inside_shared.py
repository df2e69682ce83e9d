"""A module of the project that tasks and steps share. It imports Airflow when it is imported."""

from __future__ import annotations

import logging

from airflow.sdk import BaseHook, Variable

log = logging.getLogger(__name__)


def log_all():
    for level in ("info", "warning", "error", "critical"):
        getattr(log, level)("of a shared module: %s", level)


def threshold(default):
    return Variable.get("threshold", default=default)


def secret_of_db():
    return len(BaseHook.get_connection("db").password)
