"""The ``local`` backend, which runs a step as a process on this host. ``hook.py`` describes how it works.

A name is imported on first use. The supervisor of a job lives in a subpackage and uses the standard library
only, so to import this package must not import Airflow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.hooks.local.hook import LocalStepHook
    from airflow_stepop.hooks.local.settings import LocalSettings

__all__ = ["LocalSettings", "LocalStepHook"]

_MODULES = {"LocalSettings": "settings", "LocalStepHook": "hook"}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
