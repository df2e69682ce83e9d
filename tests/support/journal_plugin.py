"""A pytest plugin: ``--journal FILE`` writes the journal from which ``.ci/run`` runs failed tests once more.

The journal is described in ``tests/support/journal.py``. Under pytest-xdist the process that reports writes
it. A worker adds which tests are marked ``once``, since only the processes that collect know marks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.support import journal

LONGEST_LINE = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--journal", metavar="FILE", help="append what happens to each test to this file")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--journal")
    if not path:
        return
    file = config.invocation_params.dir / path
    config.pluginmanager.register(OnceTests(file))
    if not hasattr(config, "workerinput"):
        journal.append(file, begin=[str(argument) for argument in config.invocation_params.args])
        config.pluginmanager.register(JournalWriter(config, file))


class OnceTests:
    """Writes which tests must not run a second time, in each process that collects."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        tests = [item.nodeid for item in session.items if item.get_closest_marker("once")]
        if tests:
            journal.append(self.file, once=tests)


class JournalWriter:
    """Writes what happens to each test, in the process that reports."""

    def __init__(self, config: pytest.Config, file: Path) -> None:
        self.config = config
        self.file = file
        self.is_collected = False

    def write(self, **entry: Any) -> None:
        journal.append(self.file, **entry)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.write(collected=[item.nodeid for item in session.items])

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        if not self.is_collected:  # all workers collect the same tests
            self.is_collected = True
            self.write(collected=ids)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(uncollected=report.nodeid, line=line_of(report, self.config.rootpath))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write(start=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            root = self.config.rootpath
            self.write(failed=report.nodeid, line=line_of(report, root), cause=cause_of(report, root))
        elif report.skipped:
            self.write(skipped=report.nodeid)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.write(finish=nodeid)


def line_of(report: pytest.TestReport | pytest.CollectReport, root: Path) -> str:
    """Return one line that says what went wrong, and where."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        lines = [line for line in report.longreprtext.splitlines() if line.strip()]
        line = lines[-1].strip() if lines else "no text"
    else:
        message = crash.message.strip().partition("\n")[0]
        line = f"{own_path(crash.path, root) or crash.path}:{crash.lineno}: {message}"
    return line[:LONGEST_LINE]


def cause_of(report: pytest.TestReport, root: Path) -> str:
    """Return what the errors of one shared fixture have in common; any other failure is a cause of its own.

    Each test that uses a broken fixture reports the error again. The place in the project's code and the
    type of the error are the same each time. The message may differ: it can name a port or a folder of a
    worker.
    """
    if report.when != "setup":
        return report.nodeid
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is None:
        return line_of(report, root)
    entries = getattr(getattr(report.longrepr, "reprtraceback", None), "reprentries", [])
    places = [entry.reprfileloc for entry in entries if getattr(entry, "reprfileloc", None)]
    ours = [(path, place.lineno) for place in places if (path := own_path(place.path, root))]
    path, number = ours[-1] if ours else (crash.path, crash.lineno)
    kind = crash.message.partition("\n")[0].partition(":")[0]
    return f"setup at {path}:{number}: {kind}"


def own_path(path: str, root: Path) -> str | None:
    """Return a path below the root, or nothing when the file is not of this project."""
    relative = os.path.relpath(root / path, root)
    is_own = not relative.startswith(os.pardir) and "site-packages" not in relative
    return relative if is_own else None
