"""Watches the imports of a step's function: of ``logging``, of ``warnings`` and of Airflow.

Called by :mod:`.child` before the function is loaded. The runner itself imports none of the watched modules:
a step that does not import them pays nothing for them.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from .logs import StepLog

    # executes the code of a module that is being imported
    Execute = Callable[[ModuleType], None]


def watch_imports() -> None:
    """Act on each watched module: now if the module is imported already, else when the step imports it."""
    watched = _Watched()
    for name in ("warnings", "logging"):
        if name in sys.modules:
            watched.imported(sys.modules[name])
    sys.meta_path.insert(0, _Finder(watched.importing))


class _Watched:
    """What is done with each watched module. The modules that do it are loaded when they are needed."""

    def __init__(self) -> None:
        self.descriptor = -1
        for descriptor in (1, 2):  # the copy stays when the step closes or redirects its standard output
            try:
                self.descriptor = os.dup(descriptor)
                break
            except OSError:
                continue  # the descriptor is closed
        self._log: StepLog | None = None

    @property
    def log(self) -> StepLog:
        from .logs import StepLog

        self._log = self._log or StepLog(self.descriptor)
        return self._log

    def importing(self, module: ModuleType, execute: Execute) -> None:
        """Import a watched module."""
        if module.__name__ == "airflow":
            self.log.keep(lambda: execute(module))
        else:
            execute(module)
            self.imported(module)

    def imported(self, module: ModuleType) -> None:
        if module.__name__ == "logging":
            self.log.install(module)
        elif module.__name__ == "warnings":
            _log_warnings(module)
        else:
            from .airflow_reads import refuse_reads

            refuse_reads(module)


def _log_warnings(warnings: Any) -> None:
    """Let the module ``warnings`` show each warning as a record of ``logging``, as Airflow does."""
    plain = warnings.showwarning

    def show(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        try:
            if file is None:
                import logging

                text = warnings.formatwarning(message, category, filename, lineno, line)
                logging.getLogger("py.warnings").warning("%s", text)
                return
        except Exception:  # noqa: S110 - a warning never fails the step; it is shown as Python shows it
            pass
        plain(message, category, filename, lineno, file, line)

    warnings.showwarning = show


class _Finder:
    """Lets the other finders find a watched module, and puts a :class:`_Loader` around its loader."""

    def __init__(self, importing: Callable[[ModuleType, Execute], None]) -> None:
        self.importing = importing

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.startswith("airflow."):
            from .airflow_reads import USES

            if name not in USES:
                return None
        elif name not in ("airflow", "logging", "warnings"):
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        spec.loader = _Loader(spec.loader, self.importing)  # type: ignore[assignment]
                    return spec
        return None


class _Loader:
    """Calls ``importing(module, execute)`` where the module's own loader would execute the module."""

    def __init__(self, loader: Any, importing: Callable[[ModuleType, Execute], None]) -> None:
        self.loader = loader
        self.importing = importing

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.importing(module, self.loader.exec_module)
