"""Run one task of an Airflow DAG on other infrastructure.

Every public name is loaded on first use: importing the package costs a DAG file nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_stepop.decorators import remote_step
    from airflow_stepop.exceptions import (
        BackendNotFoundError,
        BackendNotInstalledError,
        IntegrityError,
        NewerVersionError,
        OutcomeLostError,
        OutcomeNotReadyError,
        PayloadError,
        QuotaError,
        ResultNotLoadedError,
        StepConfigError,
        StepInterruptedError,
        StepopError,
        StoreError,
        UnsupportedError,
        UntrustedRecordError,
        WrongHostError,
    )
    from airflow_stepop.failure import StepFailedError
    from airflow_stepop.oom import MoreMemory
    from airflow_stepop.operators import RemoteStepOperator
    from airflow_stepop.resources import ResourceSettings
    from airflow_stepop.results import StepResult
    from airflow_stepop.retries import RemoteStepRetryPolicy

__version__ = "0.1.0"

_MODULES = {
    "BackendNotFoundError": "exceptions",
    "BackendNotInstalledError": "exceptions",
    "IntegrityError": "exceptions",
    "MoreMemory": "oom",
    "NewerVersionError": "exceptions",
    "OutcomeLostError": "exceptions",
    "OutcomeNotReadyError": "exceptions",
    "PayloadError": "exceptions",
    "QuotaError": "exceptions",
    "RemoteStepOperator": "operators",
    "RemoteStepRetryPolicy": "retries",
    "ResourceSettings": "resources",
    "ResultNotLoadedError": "exceptions",
    "StepConfigError": "exceptions",
    "StepFailedError": "failure",
    "StepInterruptedError": "exceptions",
    "StepResult": "results",
    "StepopError": "exceptions",
    "StoreError": "exceptions",
    "UnsupportedError": "exceptions",
    "UntrustedRecordError": "exceptions",
    "WrongHostError": "exceptions",
    "remote_step": "decorators",
}

__all__ = [
    "BackendNotFoundError",
    "BackendNotInstalledError",
    "IntegrityError",
    "MoreMemory",
    "NewerVersionError",
    "OutcomeLostError",
    "OutcomeNotReadyError",
    "PayloadError",
    "QuotaError",
    "RemoteStepOperator",
    "RemoteStepRetryPolicy",
    "ResourceSettings",
    "ResultNotLoadedError",
    "StepConfigError",
    "StepFailedError",
    "StepInterruptedError",
    "StepResult",
    "StepopError",
    "StoreError",
    "UnsupportedError",
    "UntrustedRecordError",
    "WrongHostError",
    "__version__",
    "remote_step",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
