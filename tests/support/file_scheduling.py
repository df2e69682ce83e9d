"""A pytest plugin: when a worker of pytest-xdist crashes, only the test that it ran fails.

Under ``--dist loadfile`` all tests of a file run in one worker, so that its fixtures are set up once. When a
worker crashes, pytest-xdist 3.8 runs the test that crashed again and again, or waits for ever for a worker
that waits for a second test. (``--dist loadgroup`` is no way out: with pytest 9.2 its groups get lost, and a
crash hangs.)
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return CrashProofScheduling(config, log) if config.getoption("dist") == "loadfile" else None


class CrashProofScheduling(LoadFileScheduling):
    """Gives all tests of a file to one worker. Another worker gets the tests that a crashed worker left."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test during which a worker crashed. Queue the tests that the worker did not run."""
        units = self.assigned_work.pop(node)
        left = [test for unit in units.values() for test, is_done in unit.items() if not is_done]
        if not left:
            return None
        for file, unit in units.items():
            queued = {test: False for test, is_done in unit.items() if not is_done and test != left[0]}
            if queued:
                self.workqueue[file] = queued
        for other in self.nodes:
            self._reschedule(other)
        return left[0]

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker at least two tests: a worker begins a test only when it knows the next one."""
        if node not in self.registered_collections:  # a new worker, which still collects
            return
        super()._reschedule(node)
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._assign_work_unit(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give a worker a file. ``remove_node`` soon takes it back from a worker that has just crashed."""
        with suppress(OSError):
            super()._assign_work_unit(node)
