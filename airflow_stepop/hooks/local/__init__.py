"""The ``local`` backend: a step is a process on this host; ``hook`` says how.

A name is loaded on first use: the supervisor of a job lies below this package, and has the standard library
only.
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
