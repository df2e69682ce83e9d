"""Writes the records of Python's ``logging`` to the step's log with their level.

**How it works:** When the step imports ``logging``, :meth:`StepLog.install` adds one handler to the root
logger and sets the root's level to INFO, as Airflow does for a task. The handler writes each line of a record
as ``WARNING:name: text``, behind a mark that is not visible. Airflow's side reads the level only where the
mark is (``LogLine.printed``).

**No line twice:** The handler is silent for a record that another handler prints. ``logging.basicConfig()``
replaces the handler.

Imported only for functions, through :mod:`.imports`.
"""

from __future__ import annotations

import os
import sys

from .failures import plain
from .protocol import LEVEL_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Handlers of the root logger that have no stream and print nothing. Any other one may print
_SILENT = {"NullHandler", "SocketHandler", "SysLogHandler", "SMTPHandler", "HTTPHandler"}
_SILENT |= {"LoggingHandler", "CloudLoggingHandler", "CloudWatchLogHandler"}  # OpenTelemetry, Google, AWS


class StepLog:
    """The step's log.

    :param descriptor: a copy of the descriptor of standard output, which the step does not close
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._file = _identity(descriptor)
        self._is_flushing = False

    def write(self, text: str) -> None:
        """Write whole lines after everything that the step has printed before."""
        if not self._is_flushing:  # a stream of the step may log in its flush()
            self._is_flushing = True
            try:
                sys.stdout.flush()
            except Exception:  # noqa: S110 - the step may have put any object there
                pass
            finally:
                self._is_flushing = False
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        # the step may have closed all descriptors, and opened a file of its own under this number
        while data and self._file and _identity(self._descriptor) == self._file:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process that shares the file made it non-blocking
                from select import select

                select([], [self._descriptor], [])

    def install(self, logging: Any) -> None:
        """Add the handler to the root logger of the module ``logging``."""
        root, basic_config, log = logging.getLogger(), logging.basicConfig, self

        class StepHandler(logging.Handler):  # type: ignore[misc]
            """Writes each record to the step's log, unless another handler prints the record."""

            def emit(self, record: Any) -> None:
                try:
                    if not log.is_printed(record, root, self):
                        log.write(_lines(record, self.format(record)))
                except RecursionError:
                    raise
                except Exception:  # formatting runs foreign code
                    self.handleError(record)

        handler = StepHandler()

        def basic_config_of_step(**options: Any) -> None:
            root.removeHandler(handler)
            try:
                basic_config(**options)
            finally:
                if not any(map(log.prints, root.handlers)):
                    root.addHandler(handler)

        logging.basicConfig = basic_config_of_step
        if not root.handlers:
            root.setLevel(logging.INFO)
        root.addHandler(handler)

    def keep(self, import_airflow: Callable[[], None]) -> None:
        """Import Airflow, which sets up ``logging`` for itself, and restore what was set up before."""
        import logging
        import warnings

        root = logging.getLogger()
        before = root.handlers[:], root.level, warnings.showwarning, root.manager.disable
        logging.disable(max(logging.INFO, root.manager.disable))  # where Airflow has found its configuration
        try:
            import_airflow()
        finally:
            root.handlers[:], level, warnings.showwarning, disabled = before
            root.setLevel(level)
            logging.disable(disabled)

    def is_printed(self, record: Any, root: Any, own: Any) -> bool:
        """Return whether a handler of the step prints this record, so that it is in the log already."""

        def printed_by(handlers: Any) -> bool:
            return any(h is not own and record.levelno >= h.level and self.prints(h) for h in handlers)

        logger = root.manager.loggerDict.get(record.name)
        while getattr(logger, "parent", None):
            if printed_by(h for h in logger.handlers if hasattr(h, "stream")):
                return True
            logger = logger.parent
        return printed_by(root.handlers)

    def prints(self, handler: Any) -> bool:
        """Return whether a handler prints to the step's log, as far as that can be known."""
        if not hasattr(handler, "stream"):
            return not any(base.__name__ in _SILENT for base in type(handler).__mro__)
        if handler.stream in (sys.stdout, sys.stderr):
            return True
        try:
            found = _identity(handler.stream.fileno())
        except Exception:  # the stream may be any object, or None
            return False
        return found in (self._file, _identity(1), _identity(2))


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return a pair that is the same for all descriptors of one file; ``None`` for a closed descriptor."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lines(record: Any, text: str) -> str:
    """Return the lines of a record, each with its mark and its level."""
    level = "DEBUG"
    for least, name in ((20, "INFO"), (30, "WARNING"), (40, "ERROR"), (50, "CRITICAL")):
        level = name if record.levelno >= least else level
    begin = f"{level}:{plain(record.name)}: "
    # of a line that overwrites itself, the last state is kept
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.rstrip("\r\n").split("\n")]
    return "".join(f"{LEVEL_MARK}{(begin + line).replace(LEVEL_MARK, '')}\n" for line in lines)
