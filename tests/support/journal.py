"""The journal of a test run: one line for each thing that happened, appended at once.

``tests/support/journal_plugin.py`` writes the journal while pytest runs. ``scripts/once_more.py`` reads it
afterwards and decides which tests run once more. Nothing here needs pytest.

The journal survives the end of pytest at any moment, also a kill -9: the ids of all tests are there before
the first of them runs, so the reader finds the tests that never ran. A line that cannot be read is skipped.
What is missing then makes the run red, never green.

Each line is a JSON object::

    {"begin": ["-n", "3"]}                          pytest has started, with these arguments
    {"collected": ["tests/test_a.py::test_b"]}      the tests of this session
    {"once": ["tests/test_a.py::test_b"]}           those of them that must not run a second time
    {"uncollected": "tests/test_c.py", "line": "SyntaxError: ..."}
    {"start": "tests/test_a.py::test_b"}
    {"failed": "tests/test_a.py::test_b", "line": "...", "cause": "..."}
    {"skipped": "tests/test_a.py::test_b"}
    {"finish": "tests/test_a.py::test_b"}
    {"exit": 1}                                     pytest has ended; whoever started pytest writes this
    {"phases": 4}                                   `make test` has come to its end after four calls of pytest
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Failure:
    """The first failure of one test. Failures with the same cause count as one."""

    test: str
    line: str
    cause: str


@dataclass
class Session:
    """One call of pytest, as far as the journal tells."""

    arguments: list[str] = field(default_factory=list)
    collected: list[str] = field(default_factory=list)
    once: set[str] = field(default_factory=set)
    uncollected: dict[str, str] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    reported: dict[str, Failure] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def failures(self) -> dict[str, Failure]:
        """Return the failures by test, those included that pytest could not report because it ended."""
        found = dict(self.reported)
        line = f"pytest ended while this test ran ({describe_exit(self.exit_code)})"
        for test in self.collected:
            if test in self.started - self.finished and test not in found:
                found[test] = Failure(test, line, line)
        return found

    @property
    def never_ran(self) -> list[str]:
        """Return the tests that pytest collected and did not begin."""
        return [test for test in self.collected if test not in self.started and test not in self.reported]

    def has_passed(self, test: str) -> bool:
        """Return whether a test ran to its end. A skipped test did not."""
        return test in self.finished and test not in self.skipped and test not in self.failures


@dataclass
class Journal:
    """All sessions of a journal, and whether ``make test`` came to its end."""

    sessions: list[Session] = field(default_factory=list)
    is_complete: bool = False


EXITS = {
    0: "all passed",
    1: "tests failed",
    2: "interrupted",
    3: "internal error",
    4: "wrong use",
    5: "no test was collected",
}


def describe_exit(code: int | None) -> str:
    """Return an exit code of pytest in words."""
    if code is None:
        return "no exit code is known"
    if code < 0 or code > 128:
        return f"killed by signal {-code if code < 0 else code - 128}"
    return f"exit code {code}: {EXITS[code]}" if code in EXITS else f"exit code {code}"


def append(path: str | os.PathLike[str], **entry: Any) -> None:
    """Append one line in one write, so that several processes may write to one journal."""
    line = json.dumps(entry) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def read(path: str | os.PathLike[str]) -> Journal:
    """Read a journal. One that is not there is empty."""
    journal = Journal()
    for entry in _entries(Path(path)):
        if "phases" in entry:
            ended = sum(session.exit_code is not None for session in journal.sessions)
            journal.is_complete = ended == entry["phases"]
        else:
            _add(_session_of(journal.sessions, entry), entry)
    return journal


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            yield entry


def _session_of(sessions: list[Session], entry: dict[str, Any]) -> Session:
    """Return the session of an entry. A pytest that is used wrongly ends before it writes anything."""
    is_new = "begin" in entry or not sessions or ("exit" in entry and sessions[-1].exit_code is not None)
    if is_new:
        sessions.append(Session())
    return sessions[-1]


def _add(session: Session, entry: dict[str, Any]) -> None:
    match entry:
        case {"begin": arguments}:
            session.arguments = arguments
        case {"collected": tests}:
            session.collected = tests
        case {"once": tests}:
            session.once |= set(tests)
        case {"uncollected": name, "line": line}:
            session.uncollected.setdefault(name, line)
        case {"failed": test, "line": line, "cause": cause}:
            session.reported.setdefault(test, Failure(test, line, cause))
        case {"exit": code}:
            session.exit_code = code
        case _:
            _add_step(session, entry)


def _add_step(session: Session, entry: dict[str, Any]) -> None:
    match entry:
        case {"start": test}:
            session.started.add(test)
        case {"skipped": test}:
            session.skipped.add(test)
        case {"finish": test}:
            session.finished.add(test)
