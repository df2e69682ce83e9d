"""The settings of the ``local`` backend, read by ``LocalStepHook`` and by ``airflow stepop describe``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from airflow_stepop.core.units import parse_size
from airflow_stepop.hooks.local.literals import check_literals
from airflow_stepop.hooks.settings import BackendSettings

if TYPE_CHECKING:
    from airflow_stepop.resources import ResourceSettings

LOG_LIMIT_LEAST_BYTES = 1024 * 1024


class LocalSettings(BackendSettings):
    """Settings of the ``local`` backend.

    :param python: absolute path of the interpreter that runs the step; by default the worker's own
        interpreter
    :param grace_period_s: seconds between SIGTERM, which asks the step to stop, and SIGKILL
    :param log_limit: maximum size of the job's log on disk; the beginning and the end of a longer log are
        kept
    """

    python: str | None = None
    grace_period_s: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    log_limit: str = "128MiB"

    def check_with(self, image: str | None, resources: ResourceSettings | None) -> None:
        check_literals(image, resources)

    @field_validator("log_limit")
    @classmethod
    def _check_log_limit(cls, text: str) -> str:
        if parse_size(text, "log_limit") < LOG_LIMIT_LEAST_BYTES:
            raise ValueError(f"log_limit={text!r} is too little: write at least '1MiB'")
        return text
