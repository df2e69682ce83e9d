"""``.ci/run``: which tests run a second time, what then counts as passed, and the summary.

A small project with its own Makefile stands for this one. Its pytest is real.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts import ci, once_more
from tests.support import journal
from tests.support.journal import Failure, Session
from tests.support.paths import ROOT

# As in this project, `make test` calls pytest once for each phase, and records the exit code of each call
MAKEFILE = """
lint types docs demo extras:
\t@echo "$@ says something"

bench-short:
\t@sleep 1; echo "the benchmarks have measured"

test:
\t@failed=; for phase in $(PHASES); do code=0; \\
\tcase $$phase in unit) args="-n 2 --dist loadfile spread";; deployed) args=alone;; *) args=$$phase;; esac; \\
\t{python} -m pytest --journal=$(JOURNAL) $$args || {{ code=$$?; failed=yes; }}; \\
\techo "{{\\"exit\\": $$code}}" >> $(JOURNAL); done; \\
\techo '{{"phases": $(words $(PHASES))}}' >> $(JOURNAL); test -z "$$failed"
"""
SERVERS = """#!/bin/sh
echo "one more server" >> servers.log
echo "export SERVER=$(wc -l < servers.log)"
"""
SETTINGS = """
[pytest]
addopts = --strict-markers --import-mode=importlib -p no:cacheprovider
timeout = 60
markers =
    once: once
"""
CONFTEST = """
from pathlib import Path

pytest_plugins = ["tests.support.file_scheduling", "tests.support.long_tests", "tests.support.journal_plugin"]

def is_first(name):
    path = Path(f"ran-{name}")
    is_first = not path.exists()
    path.touch()
    return is_first
"""
# these tests fail the first time only
FLAKY = """
import os

import pytest

from conftest import is_first

def test_good():
    assert is_first("good")  # so it runs only once

def test_flaky():
    assert not is_first("flaky"), "it was busy"

def test_crash():
    if is_first("crash"):
        os._exit(1)

@pytest.fixture(scope="session")
def server():
    assert os.environ["SERVER"] != "1", "the server is broken"

@pytest.mark.parametrize("number", range(10))
def test_with_server(server, number): ...
"""
HANGING = """
import time

import pytest

from conftest import is_first

@pytest.mark.timeout(1, method="thread")
def test_hanging():
    if is_first("hanging"):
        time.sleep(100)

def test_behind(): ...
"""
LATE = "def test_late(): assert not __import__('conftest').is_first('late'), 'too late'\n"
RED = "def test_red(): assert 0, 'always'\n"
ONCE = """
import pytest

from conftest import is_first

@pytest.mark.once
def test_once(): assert not is_first("once"), "two at once"
"""


class Project:
    """A project whose tests ``scripts/ci.py`` runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("Makefile", MAKEFILE.format(python=sys.executable))
        self.write(".ci/servers", SERVERS)
        (folder / ".ci/servers").chmod(0o755)
        self.write("pytest.ini", SETTINGS)
        self.write("conftest.py", CONFTEST)
        self.write("spread/test_good.py", "def test_good(): ...")
        self.write("alone/test_good.py", "def test_good(): ...")
        self.write("crashes/test_good.py", "def test_good(): ...")
        self.write("faults/test_good.py", "def test_good(): ...")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    @property
    def env(self) -> dict[str, str]:
        """Return an environment without the variables of the run around this one."""
        names = ("PYTEST", "STEPOP", "MAKE", "MFLAGS", "JOURNAL")
        env = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        env |= {"PYTHONPATH": f"{ROOT}:{self.folder}", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin,pytest_timeout"}

    def run(self) -> tuple[int, list[str]]:
        """Return the exit code of a run and the lines that it printed."""
        command = [sys.executable, "-m", "scripts.ci"]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout.splitlines()

    def servers(self) -> int:
        """Return how many times the servers were started."""
        return len((self.folder / "servers.log").read_text().splitlines())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_what_passes_the_second_time_counts_and_is_reported_last(project: Project) -> None:
    """Ten tests of one broken fixture count as one cause.

    A test after the one that ended pytest is not flaky.
    """
    project.write("spread/test_flaky.py", FLAKY)
    project.write("alone/test_hanging.py", HANGING)
    project.write("crashes/test_late.py", LATE)
    code, lines = project.run()
    assert code == 0
    server = "spread/test_flaky.py:20: AssertionError: the server is broken"
    told = lines[-16:]
    assert told[0] == "=== 1 test ran in the second run only, and passed"
    assert told[1].startswith("=== all passed in ")
    assert told[2] == (
        "flaky: spread/test_flaky.py::test_flaky: spread/test_flaky.py:12: AssertionError: it was busy"
    )
    assert told[3].startswith("flaky: spread/test_flaky.py::test_crash: worker 'gw")
    assert told[4:14] == [f"flaky: spread/test_flaky.py::test_with_server[{n}]: {server}" for n in range(10)]
    assert told[14].startswith("flaky: alone/test_hanging.py::test_hanging: pytest ended while this test ran")
    assert (
        told[15] == "flaky: crashes/test_late.py::test_late: crashes/test_late.py:1: AssertionError: too late"
    )
    assert project.servers() == 4  # once at first, and once before the second run of each phase
    assert order_of(lines)[:2] == ["lint", "types"]
    assert sorted(order_of(lines)[2:-4]) == ["bench-short", "demo", "docs", "extras"]
    unit, *two, faults = order_of(lines)[-4:]
    assert (unit, faults) == ("test PHASES=unit", "test PHASES=faults")
    assert sorted(two) == ["test PHASES=crashes", "test PHASES=deployed"]
    # the output of parallel targets is printed one after the other
    assert lines[lines.index("=== make bench-short") + 1] == "the benchmarks have measured"


def order_of(lines: list[str]) -> list[str]:
    begin = "=== make "
    return [line.removeprefix(begin) for line in lines if line.startswith(begin) and ":" not in line]


def test_what_fails_twice_or_may_not_run_again_is_red(project: Project) -> None:
    makefile = MAKEFILE.format(python=sys.executable).replace("lint types", "types")
    project.write("Makefile", f"{makefile}\nlint:\n\tfalse\n")
    project.write("spread/test_red.py", RED)
    project.write("spread/test_once.py", ONCE)
    project.write("alone/test_broken.py", "import nothing_of_this_name")
    project.write("alone/test_red.py", RED)
    code, lines = project.run()
    assert code == 1
    assert lines[-5] == (
        "=== failed, and is marked once: spread/test_once.py::test_once: "
        "spread/test_once.py:7: AssertionError: two at once"
    )
    error = "E   ModuleNotFoundError: No module named 'nothing_of_this_name'"
    assert lines[-4] == f"=== not collected: alone/test_broken.py: {error}"
    assert lines[-3].startswith("=== pytest --journal=")
    assert lines[-3].endswith(" alone: exit code 2: interrupted")
    assert lines[-2] == (
        "=== failed twice: spread/test_red.py::test_red: spread/test_red.py:1: AssertionError: always"
    )
    assert lines[-1].startswith("=== failed after ")
    assert lines[-1].endswith(" s: lint test")
    assert lines.count("=== once more, one after the other: 1 test") == 1


def test_servers_that_do_not_start_end_the_run(project: Project) -> None:
    project.write(".ci/servers", "#!/bin/sh\necho they do not work >&2\nexit 1\n")
    code, lines = project.run()
    assert code == 1
    assert lines[-2:] == [
        "they do not work",
        "=== failed: the servers of the tests did not start (.ci/servers)",
    ]


def test_a_second_run_that_takes_too_long_is_interrupted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("test_long.py", "import time\ndef test_long(): time.sleep(100)\ndef test_behind(): ...\n")
    monkeypatch.chdir(project.folder)
    path = project.folder / "journal"
    tests = ["test_long.py::test_long", "test_long.py::test_behind"]
    begin = time.monotonic()
    ci.run_alone(tests, path, project.env, begin + 3)
    assert time.monotonic() - begin < 60
    (found,) = journal.read(path).sessions
    # interrupted; on a slow machine pytest may not have reached the tests yet
    assert found.exit_code not in (0, None)
    assert not any(found.has_passed(test) for test in tests)


PROGRAM = """#!/bin/sh
echo "$(basename "$0") $1${3:+ at }$3" >> CALLS
case $1 in env) echo 'export KUBECONFIG=/there PATH=/tools:$PATH' ;; *) echo "export NOISE=1" ;; esac
"""


@pytest.fixture
def servers(tmp_path: Path) -> Callable[..., tuple[dict[str, str], list[str]]]:
    """Return a function that calls ``.ci/servers`` with stand-ins; it returns the variables and the calls."""
    calls = tmp_path / "calls"
    script = tmp_path / "project" / ".ci" / "servers"
    for path in (script, *(tmp_path / "shared" / name / name for name in ("s3server", "cluster"))):
        path.parent.mkdir(parents=True)
        path.write_text(
            (ROOT / ".ci/servers").read_text() if path == script else PROGRAM.replace("CALLS", str(calls))
        )
        path.chmod(0o755)

    def call(**env: str) -> tuple[dict[str, str], list[str]]:
        env = {"PATH": os.environ["PATH"], **env}
        command = ["/bin/bash", "-c", ci.SERVERS]
        done = subprocess.run(command, cwd=script.parents[1], env=env, check=True, stdout=subprocess.PIPE)
        found = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
        return found, calls.read_text().splitlines()

    return call


def test_servers_and_a_cluster_start_anew(servers, tmp_path: Path) -> None:
    env, calls = servers()
    assert env["STEPOP_S3SERVER"] == str(tmp_path / "shared/s3server/s3server")
    assert env["STEPOP_CLUSTER"] == str(tmp_path / "shared/cluster/cluster")
    assert env["STEPOP_S3_FOR_PODS"] == "http://10.244.0.1:17070"
    assert env["KUBECONFIG"] == "/there"
    assert env["PATH"].startswith("/tools:")
    assert "NOISE" not in env
    at = "s3server up at 0.0.0.0:17070"
    assert calls == ["s3server down", "cluster down", "cluster up", "cluster env", at]


def test_a_cluster_of_the_caller_stays_as_it_is(servers) -> None:
    env, calls = servers(KUBECONFIG="/mine")
    assert env["KUBECONFIG"] == "/mine"
    assert "STEPOP_CLUSTER" not in env
    assert calls == ["s3server down", "s3server up"]


def session(**changes: Any) -> Session:
    """Return a session of three tests, the first of which failed."""
    tests = ["a", "b", "c"]
    failures = {"a": Failure("a", "line", "a")}
    found = Session([], tests, started={*tests}, finished={*tests}, reported=failures, exit_code=1)
    for name, value in changes.items():
        setattr(found, name, value)
    return found


ENDED_IN_B = {"started": {"a", "b"}, "finished": {"a"}}


@pytest.mark.parametrize(
    ("changes", "reasons", "again"),
    [
        ({}, [], ["a"]),
        ({"exit_code": 0, "reported": {}}, [], []),
        ({"once": {"a"}}, ["failed, and is marked once: a: line"], []),
        ({"once": {"b"}}, [], ["a"]),
        ({"exit_code": 137, **ENDED_IN_B}, [], ["a", "b", "c"]),
        ({"exit_code": -9, "started": {"a"}}, [], ["a", "b", "c"]),
        ({"once": {"b"}, **ENDED_IN_B}, ["failed, and is marked once: b: pytest ended"], ["a", "c"]),
        ({"exit_code": 137, "reported": {}}, ["pytest : killed by signal 9"], []),
        ({"exit_code": 1, "reported": {}}, ["pytest : exit code 1: tests failed"], []),
        ({"exit_code": 2}, ["pytest : exit code 2: interrupted"], []),
        ({"exit_code": 3}, ["pytest : exit code 3: internal error"], []),
        ({"exit_code": 4}, ["pytest : exit code 4: wrong use"], []),
        ({"exit_code": 5}, ["pytest : exit code 5: no test was collected"], []),
        ({"exit_code": None}, ["pytest : no exit code is known"], []),
    ],
)
def test_what_runs_again_and_what_is_final(changes: dict[str, Any], reasons: list[str], again: list[str]):
    found = session(**changes)
    assert_reasons(once_more.final_reasons(found), reasons)
    assert once_more.to_run_again(found) == again


def assert_reasons(told: list[str], expected: list[str]) -> None:
    assert len(told) == len(expected)
    assert all(one.startswith(begin) for one, begin in zip(told, expected, strict=True))


Entries = list[dict[str, Any]]


def failing(tests: list[str], cause: str = "") -> Entries:
    """Return the journal of a pytest whose tests have all failed."""
    steps: Entries = []
    for test in tests:
        failed = {"failed": test, "line": "line", "cause": cause or test}
        steps += [{"start": test}, failed, {"finish": test}]
    return [{"begin": ["phase"]}, {"collected": tests}, *steps, {"exit": 1}]


def passing(tests: list[str]) -> Entries:
    return [*(entry for entry in failing(tests)[:-1] if "failed" not in entry), {"exit": 0}]


def both_runs(
    folder: Path, first: Entries, code: int = 2, phases: int = 1, second: Entries | None = None
) -> tuple[once_more.Verdict, list[str]]:
    """Return the verdict of both runs and the tests that ran again. By default these pass the second time."""
    ran: list[str] = []

    def write(path: Path, entries: Entries) -> None:
        for entry in entries:
            journal.append(path, **entry)

    def run(folder: Path) -> dict[Path, int]:
        write(folder / "first", [*first, {"phases": phases}])
        return {folder / "first": code}

    def run_again(tests: list[str], path: Path) -> None:
        ran.extend(tests)
        write(path, passing(tests) if second is None else second)

    return once_more.both_runs(run, run_again, folder), ran


@pytest.mark.parametrize(("count", "cause", "is_red"), [(5, "", False), (6, "", True), (50, "one", False)])
def test_more_than_five_flaky_causes_are_red(tmp_path: Path, count: int, cause: str, is_red: bool) -> None:
    tests = [f"t{number}" for number in range(count)]
    verdict, ran = both_runs(tmp_path, failing(tests, cause))
    assert verdict.red == (["6 flaky failures are more than 5"] if is_red else [])
    assert [failure.test for failure in verdict.flaky] == ran == tests


@pytest.mark.parametrize(
    ("count", "cause", "reason"),
    [
        (41, "", "nothing ran again: 41 failures are more than 40"),
        (151, "one", "nothing ran again: 151 tests that failed or never ran are more than 150"),
    ],
)
def test_too_many_failures_do_not_run_again(tmp_path: Path, count: int, cause: str, reason: str) -> None:
    verdict, ran = both_runs(tmp_path, failing([f"t{number}" for number in range(count)], cause))
    assert verdict.red == [reason]
    assert ran == []


def test_each_call_of_make_must_come_to_its_end(project: Project) -> None:
    """The phase "deployed" ends early. A flaky test of the parallel phase "crashes" does not hide this."""
    project.write("crashes/test_late.py", LATE)
    makefile = MAKEFILE.format(python=sys.executable)
    project.write(
        "Makefile", makefile.replace("failed=;", "failed=; test $(PHASES) != deployed || exit 3;", 1)
    )
    code, lines = project.run()
    assert code == 1
    assert lines[-3] == "=== make test ended before its last phase"
    assert lines[-2].endswith(" s: test")
    assert lines[-1].startswith("flaky: crashes/test_late.py")


@pytest.mark.parametrize(
    ("first", "code", "phases", "reason"),
    [
        (passing(["t"]), -9, 1, "make test ended with the exit code -9"),
        (passing(["t"]), 2, 2, "make test ended before its last phase"),
        (passing(["t"]), 2, 1, "make test failed, though each pytest passed"),
        ([], 2, 1, "make test ended before its last phase"),
        ([{"exit": 4}], 2, 1, "pytest : exit code 4: wrong use"),
    ],
)
def test_an_unfinished_run_is_red(
    tmp_path: Path, first: Entries, code: int, phases: int, reason: str
) -> None:
    verdict, _ = both_runs(tmp_path, first, code, phases)
    assert verdict.red == [reason]


SKIPPED: Entries = [
    {"begin": []},
    {"collected": ["a"]},
    {"start": "a"},
    {"skipped": "a"},
    {"finish": "a"},
    {"exit": 0},
]


@pytest.mark.parametrize(
    ("second", "reasons"),
    [
        (SKIPPED, ["failed, and did not run the second time: a: line"]),
        ([], ["in the second run: pytest : no exit code is known", "failed, and did not run"]),
        (failing(["a"]), ["failed twice: a: line"]),
        ([{"begin": []}, {"exit": 2}], ["in the second run: pytest : exit code 2", "failed, and did not"]),
    ],
)
def test_only_a_pass_in_the_second_run_counts(tmp_path: Path, second: Entries, reasons: list[str]):
    verdict, _ = both_runs(tmp_path, failing(["a"]), second=second)
    assert_reasons(verdict.red, reasons)
    assert verdict.flaky == []


@pytest.mark.parametrize(("second", "is_red"), [(SKIPPED, False), (failing(["a"]), True), ([], True)])
def test_a_test_that_never_ran_may_skip_and_may_not_fail(
    tmp_path: Path, second: Entries, is_red: bool
) -> None:
    never_ran: Entries = [{"begin": []}, {"collected": ["a"]}, {"exit": 137}]
    verdict, ran = both_runs(tmp_path, never_ran, second=second)
    assert ran == ["a"]
    assert bool(verdict.red) == is_red
    assert verdict.flaky == []
