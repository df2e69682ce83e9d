"""The ``kubernetes`` backend: a step runs as a Job on the user's cluster. ``hook.py`` is the place to start.

Each name below is imported on first use. No module of this folder imports the package ``kubernetes`` at load
time, because a DAG file must not pay for the client.
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
