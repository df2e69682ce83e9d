"""Run the failed tests once more, and decide whether the run is red. ``scripts/ci.py`` calls this module.

A test that fails and then passes is flaky; a few flaky tests are allowed. Some failures are final and get no
second run: tests marked ``once``, files that pytest could not collect, and a pytest that was interrupted,
called wrongly, or broken. Tests that never ran because their pytest ended early run now for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import journal
from tests.support.journal import Failure, Journal, Session, describe_exit

MOST_FLAKY = 5
# With more failures than this, the run has one common cause, and a second run would only repeat it slowly
MOST_CAUSES = 40
MOST_TESTS = 150
TESTS_FAILED = 1
LAST_OF_PYTEST = 5  # pytest's highest exit code; higher ones come from a shell, for signals
MAKE_FAILED = 2


@dataclass
class Verdict:
    """The result of both runs.

    :param red: the reasons why the run is red; empty if it is green
    :param flaky: the first failures of tests that passed in the second run
    :param ran_late: tests that ran in the second run only, and passed
    """

    red: list[str] = field(default_factory=list)
    flaky: list[Failure] = field(default_factory=list)
    ran_late: list[str] = field(default_factory=list)


def both_runs(
    run: Callable[[Path], dict[Path, int]], run_again: Callable[[list[str], Path], None], folder: Path
) -> Verdict:
    """Run all tests, and run the failed ones once more.

    ``run`` gets a folder for journals. It calls ``make test`` for all phases, in one or several calls, and
    returns the journal and the exit code of each call. ``run_again`` gets the ids of tests and the path of
    another journal. It is called once for each phase, because each phase has its own process.
    """
    verdict = Verdict()
    sessions: list[Session] = []
    for path, code in run(folder).items():
        first = journal.read(path)
        verdict.red += reasons_of_make(code, first)
        sessions += first.sessions
    for session in sessions:
        verdict.red += final_reasons(session)
    hopeless = why_not_again(sessions)
    if hopeless:
        verdict.red.append(hopeless)
        return verdict
    for number, session in enumerate(sessions):
        tests = to_run_again(session)
        if tests:
            path = folder / f"second-{number}"
            run_again(tests, path)
            second = journal.read(path).sessions or [Session()]
            judge(verdict, session, second[0], tests)
    causes = {failure.cause for failure in verdict.flaky}
    if len(causes) > MOST_FLAKY:
        verdict.red.append(f"{len(causes)} flaky failures are more than {MOST_FLAKY}")
    return verdict


def reasons_of_make(code: int, first: Journal) -> list[str]:
    """Return the reasons why a call of ``make test`` itself makes the run red."""
    if code not in (0, MAKE_FAILED):
        return [f"make test ended with the exit code {code}"]
    if not first.is_complete:
        return ["make test ended before its last phase"]
    if code and all(session.exit_code == 0 for session in first.sessions):
        return ["make test failed, though each pytest passed"]
    return []


def final_reasons(session: Session) -> list[str]:
    """Return the failures of a phase that make the run red without a second run."""
    failures = session.failures
    found = [f"not collected: {name}: {line}" for name, line in session.uncollected.items()]
    found += [
        f"failed, and is marked once: {test}: {failure.line}"
        for test, failure in failures.items()
        if test in session.once
    ]
    is_unexplained = session.exit_code != 0 and not failures and not session.never_ran
    if ended_oddly(session) or is_unexplained:
        found.append(f"pytest {' '.join(session.arguments)}: {describe_exit(session.exit_code)}")
    return found


def ended_oddly(session: Session) -> bool:
    """Return whether pytest ended for another reason than failed tests or a signal.

    A signal hits single tests, so these tests may run again.
    """
    code = session.exit_code
    return code is None or TESTS_FAILED < code <= LAST_OF_PYTEST


def to_run_again(session: Session) -> list[str]:
    """Return the tests that run again, in the order in which pytest collected them."""
    if ended_oddly(session):
        return []
    failures = session.failures
    wanted = {*failures, *session.never_ran} - (session.once & failures.keys())
    return [test for test in session.collected if test in wanted]


def why_not_again(sessions: list[Session]) -> str | None:
    """Return why there is no second run, if too much has failed; else ``None``."""
    causes = {failure.cause for session in sessions for failure in session.failures.values()}
    tests = [test for session in sessions for test in to_run_again(session)]
    if len(causes) > MOST_CAUSES:
        return f"nothing ran again: {len(causes)} failures are more than {MOST_CAUSES}"
    if len(tests) > MOST_TESTS:
        return f"nothing ran again: {len(tests)} tests that failed or never ran are more than {MOST_TESTS}"
    return None


def judge(verdict: Verdict, first: Session, second: Session, tests: list[str]) -> None:
    """Add the results of the second run of one phase to the verdict."""
    verdict.red += [f"in the second run: {reason}" for reason in final_reasons(second)]
    before, again = first.failures, second.failures
    for test in tests:
        if second.has_passed(test):
            if test in before:
                verdict.flaky.append(before[test])
            else:
                verdict.ran_late.append(test)
        elif test in again:
            times = "failed twice" if test in before else "failed"
            verdict.red.append(f"{times}: {test}: {again[test].line}")
        elif test in before:
            verdict.red.append(f"failed, and did not run the second time: {test}: {before[test].line}")
        elif test not in second.skipped:
            verdict.red.append(f"never ran: {test}")
