"""The ``sagemaker`` backend: a step runs as a SageMaker training job in the user's AWS account.

Each name below is imported on first use. No module of this folder imports ``boto3`` at load time, because a
DAG file must not pay for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
    from airflow_stepop.hooks.sagemaker.settings import SageMakerSettings

__all__ = ["SageMakerSettings", "SageMakerStepHook"]

_MODULES = {"SageMakerSettings": "settings", "SageMakerStepHook": "hook"}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
