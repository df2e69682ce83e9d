"""The ``modal`` backend: a step runs in a sandbox of Modal, in the user's workspace.

Each name below is imported on first use. No module of this folder imports ``modal`` at load time, because a
DAG file must not pay for the client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.hook import ModalStepHook
    from airflow_stepop.hooks.modal.settings import ModalSettings

__all__ = ["ModalSettings", "ModalStepHook"]

_MODULES = {"ModalSettings": "settings", "ModalStepHook": "hook"}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
