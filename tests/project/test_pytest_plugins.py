"""This test suite's plugins in real runs of pytest: groups, long tests, and the journal.

Each run has its own folder with small tests and with this project's plugins.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import journal
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

PLUGINS = ["tests.support.file_scheduling", "tests.support.long_tests", "tests.support.journal_plugin"]
SETTINGS = """
[pytest]
addopts = -ra --strict-markers --import-mode=importlib -p no:cacheprovider
markers =
    long: long
    once: once
"""
SPREAD = ("-n", "2", "--dist", "loadfile")
EITHER = pytest.mark.parametrize("how", [(), SPREAD], ids=["alone", "spread"])


@dataclass
class Run:
    code: int
    output: str
    session: journal.Session

    def has_passed(self, test: str) -> bool:
        return self.session.has_passed(test)

    def line(self, test: str) -> str:
        return self.session.failures[test].line


class Suite:
    """A folder with tests, and how to run pytest on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "journal"
        self.write("conftest.py", f"pytest_plugins = {PLUGINS}")
        self.write("pytest.ini", SETTINGS)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pytest", f"--journal={self.journal}", *arguments]

    @property
    def env(self) -> dict[str, str]:
        inner = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "STEPOP"))
        }
        inner |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        return {
            **inner,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_PLUGINS": "xdist.plugin,pytest_timeout",
        }

    def run(self, *arguments: str, **env: str) -> Run:
        self.journal.unlink(missing_ok=True)
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env={**self.env, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        journal.append(self.journal, exit=done.returncode)
        (session,) = journal.read(self.journal).sessions
        return Run(done.returncode, done.stdout, session)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


WORKERS = """
import os

import pytest

@pytest.mark.parametrize("number", range(6))
def test_one(number):
    with open("workers", "a") as file:
        file.write(f"{__name__} {os.environ['PYTEST_XDIST_WORKER']}\\n")
"""


def workers_of(suite: Suite) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in (suite.folder / "workers").read_text().splitlines():
        name, worker = line.split()
        found.setdefault(name, set()).add(worker)
    return found


def test_the_tests_of_a_file_run_in_one_process(suite: Suite) -> None:
    for name in "abcd":
        suite.write(f"test_{name}.py", WORKERS)
    suite.run(*SPREAD)
    workers = workers_of(suite)
    assert {name: len(found) for name, found in workers.items()} == {f"test_{name}": 1 for name in "abcd"}
    assert len(set.union(*workers.values())) == 2


STRANGE_IDS = """
import pytest

@pytest.mark.parametrize("text", ["a@b", "[x]@y", "::", "a b", "ü", "-k"])
def test_one(text):
    raise ValueError(text)
"""


def test_people_read_ids_that_pytest_accepts(suite: Suite) -> None:
    suite.write("test_a@b.py", STRANGE_IDS)
    run = suite.run(*SPREAD)
    failed = set(re.findall(r"^FAILED (.+) - ValueError", run.output, re.MULTILINE))
    assert failed == set(run.session.failures) == set(run.session.collected)
    assert len(failed) == 6
    again = suite.run(*failed)
    assert set(again.session.failures) == failed
    assert "6 failed" in again.output


LONG = """
import pytest

@pytest.mark.long
@pytest.mark.parametrize("number", range(3))
def test_long(number):
    pass

def test_short():
    pass
"""


@EITHER
def test_long_tests_are_left_out_and_counted(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", LONG)
    left_out = suite.run(*how)
    assert left_out.session.collected == ["test_a.py::test_short"]
    assert "\nleft out as long: 3 tests\n" in left_out.output
    for everything in (suite.run("--long", *how), suite.run(*how, STEPOP_LONG="1")):
        assert len(everything.session.collected) == 4
        assert "left to make" not in everything.output
    assert len(suite.run("--long", "-m", "long", *how).session.collected) == 3


@EITHER
def test_a_long_test_that_is_named_runs(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", LONG)
    assert suite.run("test_a.py::test_long[1]", *how).session.finished == {"test_a.py::test_long[1]"}


OUTCOMES = """
import pytest

def test_good():
    pass

def test_bad():
    assert 1 == 2, "bad"

@pytest.fixture
def broken_at_the_end():
    yield
    raise ValueError("at the end")

def test_bad_end(broken_at_the_end):
    pass

def test_skipped():
    pytest.skip("no")

@pytest.mark.once
def test_once():
    pytest.fail("security")
"""


@EITHER
def test_the_journal_knows_what_came_of_each_test(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", OUTCOMES)
    run = suite.run(*how)
    assert run.code == run.session.exit_code == 1
    assert [test for test in run.session.collected if run.has_passed(test)] == ["test_a.py::test_good"]
    assert run.session.never_ran == []
    assert run.session.skipped == {"test_a.py::test_skipped"}
    assert run.session.once == {"test_a.py::test_once"}
    assert {test: run.line(test) for test in run.session.failures} == {
        "test_a.py::test_bad": "test_a.py:8: AssertionError: bad",
        "test_a.py::test_bad_end": "test_a.py:13: ValueError: at the end",
        "test_a.py::test_once": "test_a.py:23: Failed: security",
    }


FIXTURES = """
import os
import subprocess

import pytest

def start(name):
    subprocess.run(["false", str(os.getpid()), name], check=True)

@pytest.fixture(scope="session")
def server():
    start("server")

@pytest.fixture
def needs_server(request):
    request.getfixturevalue("server")

@pytest.fixture
def other():
    pytest.fail(f"other {os.getpid()}")

@pytest.mark.parametrize("number", range(4))
def test_direct(server, number): ...

def test_indirect(needs_server): ...

def test_other(other): ...

def test_self(request): raise ValueError

def test_self_too(request): raise ValueError
"""


@EITHER
def test_errors_of_one_fixture_have_one_cause(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", FIXTURES)
    suite.write("test_b.py", FIXTURES.replace("server", "server_b"))
    suite.write("test_c.py", "from test_a import server\ndef test_c(server): ...")
    failures = suite.run(*how, PYTHONPATH=f"{ROOT}:{suite.folder}").session.failures
    causes = {
        name: {one.cause for one in failures.values() if name in one.test}
        for name in ("a.py", "b.py", "c.py")
    }
    assert len(failures) == 17
    assert (len(causes["a.py"]), len(causes["b.py"])) == (4, 4)
    assert causes["c.py"] < causes["a.py"]


NEEDS = """
from tests.support.needs import needs

def test_present():
    assert needs("a server", "a server: start one") == "a server"

def test_absent():
    needs(None, "a server: start one")

def test_absent_too():
    needs("", "a cluster: make one")
"""


@EITHER
def test_what_is_absent_is_skipped_and_fails_in_ci(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", NEEDS)
    here = suite.run(*how)
    assert here.code == 0
    assert here.session.skipped == {"test_a.py::test_absent", "test_a.py::test_absent_too"}
    assert "test_a.py:8: needs a server: start one" in here.output
    in_ci = suite.run(*how, STEPOP_CI="1")
    assert {test: in_ci.line(test) for test in in_ci.session.failures} == {
        "test_a.py::test_absent": "test_a.py:8: Failed: needs a server: start one",
        "test_a.py::test_absent_too": "test_a.py:11: Failed: needs a cluster: make one",
    }
    assert in_ci.has_passed("test_a.py::test_present")


CRASHES = """
import os
import pytest

def test_before(): pass

@pytest.mark.once
def test_crash():
    os._exit(3)

def test_after(): pass
"""


def test_a_test_that_ends_pytest_has_failed_and_the_others_never_ran(suite: Suite) -> None:
    suite.write("test_a.py", CRASHES)
    run = suite.run()
    assert run.code == 3
    assert run.has_passed("test_a.py::test_before")
    assert list(run.session.failures) == ["test_a.py::test_crash"]
    assert run.line("test_a.py::test_crash").startswith("pytest ended while this test ran")
    assert run.session.never_ran == ["test_a.py::test_after"]
    assert run.session.once == {"test_a.py::test_crash"}


def test_a_worker_that_crashes_fails_its_test(suite: Suite) -> None:
    suite.write("test_a.py", CRASHES)
    suite.write("test_b.py", "def test_b(): pass")
    run = suite.run(*SPREAD)
    assert run.code == 1
    assert run.line("test_a.py::test_crash").endswith("crashed while running 'test_a.py::test_crash'")
    assert run.session.once == {"test_a.py::test_crash"}
    assert run.has_passed("test_b.py::test_b")
    assert list(run.session.failures) == ["test_a.py::test_crash"]
    assert run.has_passed("test_a.py::test_after")
    assert run.output.count("replacing crashed worker") == 1


def test_a_worker_that_crashes_again_and_again_leaves_the_others_to_others(suite: Suite) -> None:
    suite.write(
        "test_a.py", CRASHES + CRASHES.replace("_crash", "_crash_too").replace("_after", "_after_too")
    )
    for name in "bcd":
        suite.write(f"test_{name}.py", CRASHES)
    run = suite.run(*SPREAD)
    assert len(run.session.collected) == 14
    assert {test for test in run.session.collected if not run.has_passed(test)} == set(run.session.failures)
    assert len(run.session.failures) == 5


HANGS = """
import time

def test_before(): pass

def test_hangs():
    time.sleep(100)

def test_after(): pass
"""


def test_a_hanging_test_that_ends_pytest_has_failed(suite: Suite) -> None:
    """With the method ``thread``, pytest-timeout ends the process without a report."""
    suite.write("test_a.py", HANGS)
    run = suite.run("--timeout", "3", "--timeout-method", "thread")
    assert list(run.session.failures) == ["test_a.py::test_hangs"]
    assert run.session.never_ran == ["test_a.py::test_after"]


@EITHER
def test_the_journal_survives_a_kill(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", HANGS)
    process = subprocess.Popen(suite.command(*how), cwd=suite.folder, env=suite.env, start_new_session=True)
    hanging = '{"start": "test_a.py::test_hangs"}'
    wait_until(lambda: suite.journal.exists() and hanging in suite.journal.read_text(), "the test that hangs")
    process.kill()
    journal.append(suite.journal, exit=process.wait())
    if how:
        os.killpg(process.pid, signal.SIGKILL)
    (session,) = journal.read(suite.journal).sessions
    assert (
        session.failures["test_a.py::test_hangs"].line
        == "pytest ended while this test ran (killed by signal 9)"
    )
    assert session.has_passed("test_a.py::test_before")
    assert session.never_ran == ["test_a.py::test_after"]


@EITHER
def test_tests_behind_the_last_failure_never_ran(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", "def test_a(): assert 0\ndef test_b(): pass\ndef test_c(): pass\n")
    run = suite.run("--maxfail", "1", *(["-n", "1", *how[2:]] if how else []))
    assert list(run.session.failures) == ["test_a.py::test_a"]
    assert "test_a.py::test_c" in run.session.never_ran


@EITHER
def test_a_file_that_cannot_be_collected_is_known(suite: Suite, how: tuple[str, ...]) -> None:
    suite.write("test_a.py", "def test_a(): pass")
    suite.write("test_b.py", "import nothing_of_this_name")
    run = suite.run(*how)
    assert run.code == (1 if how else 2)
    assert run.session.uncollected == {
        "test_b.py": "E   ModuleNotFoundError: No module named 'nothing_of_this_name'"
    }
    assert run.session.never_ran == ([] if how else ["test_a.py::test_a"])


def test_wrong_use_is_a_session_of_its_own(suite: Suite) -> None:
    path = suite.journal
    journal.append(path, begin=[])
    journal.append(path, exit=0)
    journal.append(path, exit=4)
    with path.open("a") as file:
        file.write('{"begin": ["half a li\n')
    journal.append(path, phases=2)
    found = journal.read(path)
    assert [session.exit_code for session in found.sessions] == [0, 4]
    assert found.is_complete
