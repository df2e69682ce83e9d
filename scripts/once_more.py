"""Run the tests that failed once more, and decide whether the run is red; ``scripts/ci.py`` calls it.

A test that fails and then passes is flaky, which is allowed for a few. Some failures are final, and never run
again: tests marked ``once``, files that pytest could not collect, and a pytest that was interrupted, used
wrongly, or broken. Tests that never ran, since their pytest ended before, run for the first time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import journal
from tests.support.journal import Failure, Journal, Session, describe_exit

MOST_FLAKY = 5
# A run with more than that has one big trouble, which a second run would only repeat, slowly
MOST_CAUSES = 40
MOST_TESTS = 150
TESTS_FAILED = 1
LAST_OF_PYTEST = 5  # higher exit codes are a shell's, for signals
MAKE_FAILED = 2


@dataclass
class Verdict:
    """What came of both runs: why they are red, and which tests passed the second time only."""

    red: list[str] = field(default_factory=list)
    flaky: list[Failure] = field(default_factory=list)
    ran_late: list[str] = field(default_factory=list)


def both_runs(
    run: Callable[[Path], int], run_again: Callable[[list[str], Path], None], folder: Path
) -> Verdict:
    """Run all tests, and once more those that failed.

    ``run`` gets the path of a journal and returns the exit code of ``make test``. ``run_again`` gets the
    ids of tests and the path of another journal. It is called for each phase, since phases do not share a
    process.
    """
    code = run(folder / "first")
    first = journal.read(folder / "first")
    verdict = Verdict(reasons_of_make(code, first))
    for session in first.sessions:
        verdict.red += final_reasons(session)
    hopeless = why_not_again(first.sessions)
    if hopeless:
        verdict.red.append(hopeless)
        return verdict
    for number, session in enumerate(first.sessions):
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
    """Return what is wrong with the call of ``make test`` itself."""
    if code not in (0, MAKE_FAILED):
        return [f"make test ended with the exit code {code}"]
    if not first.is_complete:
        return ["make test ended before its last phase"]
    if code and all(session.exit_code == 0 for session in first.sessions):
        return ["make test failed, though each pytest passed"]
    return []


def final_reasons(session: Session) -> list[str]:
    """Return what makes the run red, whatever a second run would say."""
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
    """Return whether pytest ended because of neither its tests nor a signal, which hits single tests."""
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
    """Return why nothing runs again, when so much has failed that a second run is not worth its time."""
    causes = {failure.cause for session in sessions for failure in session.failures.values()}
    tests = [test for session in sessions for test in to_run_again(session)]
    if len(causes) > MOST_CAUSES:
        return f"nothing ran again: {len(causes)} failures are more than {MOST_CAUSES}"
    if len(tests) > MOST_TESTS:
        return f"nothing ran again: {len(tests)} tests that failed or never ran are more than {MOST_TESTS}"
    return None


def judge(verdict: Verdict, first: Session, second: Session, tests: list[str]) -> None:
    """Add to the verdict what came of the tests of one phase that ran again."""
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
