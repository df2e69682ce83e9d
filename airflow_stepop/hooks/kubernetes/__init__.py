"""The ``kubernetes`` backend: a step is a Job on the user's cluster; ``hook`` says how.

A name is loaded on first use, and no module here imports the package ``kubernetes`` when it is loaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.hook import KubernetesStepHook
    from airflow_stepop.hooks.kubernetes.settings import KubernetesSettings

__all__ = ["KubernetesSettings", "KubernetesStepHook"]

_MODULES = {"KubernetesSettings": "settings", "KubernetesStepHook": "hook"}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
