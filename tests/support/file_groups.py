"""A pytest plugin: under ``--dist loadfile`` files with the same ``xdist_group`` mark run in one process.

The tests of a file run in one process anyway, so its fixtures are set up once. Tests with the mark leave
the group of their file for the group that the mark names.

Why not ``--dist loadgroup``: pytest-xdist passes groups to its scheduler in the ids of tests. With pytest
9.2 these groups get lost, without a word; with an older pytest people read ids that pytest does not accept.
Here, each worker writes the groups into a file, whose folder the controlling process has told it, and ids
stay as they are.

The scheduler also mends what pytest-xdist 3.8 does when a worker crashes: it ran the test that had crashed
again and again, or waited forever for a worker that waited for a second test.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

FOLDER = "stepop_groups"


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("dist", "no") == "loadgroup":
        raise pytest.UsageError("--dist loadgroup loses groups; --dist loadfile knows them, too")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Groups(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Write the groups of the marked tests, in a worker, before pytest-xdist tells that it has collected."""
    worker: dict[str, Any] = getattr(config, "workerinput", {})
    if FOLDER in worker:
        path = Path(worker[FOLDER]) / worker["workerid"]
        path.write_text(json.dumps({item.nodeid: group for item in items if (group := group_of(item))}))


def group_of(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("xdist_group")
    return mark and str(mark.args[0] if mark.args else mark.kwargs["name"])


class Groups:
    """Reads the groups that workers have written, and makes the scheduler that keeps to them."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.groups: dict[str, str] = {}
        self.folder: Path | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: WorkerController) -> None:
        if self.folder is None:
            folder = tempfile.TemporaryDirectory(prefix="stepop-groups-")
            self.config.add_cleanup(folder.cleanup)
            self.folder = Path(folder.name)
        node.workerinput[FOLDER] = str(self.folder)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: WorkerController) -> None:
        if self.folder is not None:
            self.groups |= json.loads((self.folder / node.gateway.id).read_text())

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
        is_ours = config.getoption("dist") == "loadfile"
        return FileGroupScheduling(config, log, self.groups) if is_ours else None


class FileGroupScheduling(LoadScopeScheduling):
    """Gives all tests of a group to one worker, and what a crashed worker leaves to another one."""

    def __init__(self, config: pytest.Config, log: Any, groups: dict[str, str]) -> None:
        super().__init__(config, log)
        self.groups = groups

    def _split_scope(self, nodeid: str) -> str:
        """Return the group of a test."""
        return self.groups.get(nodeid) or nodeid.partition("::")[0]

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test that a worker has crashed with, and queue the others that it did not run."""
        units = self.assigned_work.pop(node)
        left = [test for unit in units.values() for test, is_done in unit.items() if not is_done]
        if not left:
            return None
        for group, unit in units.items():
            queued = {test: False for test, is_done in unit.items() if not is_done and test != left[0]}
            if queued:
                self.workqueue[group] = queued
        for other in self.nodes:
            self._reschedule(other)
        return left[0]

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker at least two tests, since it begins a test when it knows which one follows."""
        if node not in self.registered_collections:  # it replaces another one, and still collects
            return
        super()._reschedule(node)
        while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
            self._assign_work_unit(node)

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give a worker a group. From a worker that has just crashed, ``remove_node`` takes it back soon."""
        with suppress(OSError):
            super()._assign_work_unit(node)
