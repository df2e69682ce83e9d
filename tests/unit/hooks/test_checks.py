"""The checks of a backend run one after the other."""

from __future__ import annotations

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.common.api_errors import ApiError, Trouble
from airflow_stepop.hooks.common.checks import Check, run_checks
from airflow_stepop.job import Finding


def fails(error):
    def run():
        yield Finding(True, "half", "was found")
        raise error

    return run


def found(*checks):
    return list(run_checks(lambda error: ApiError(Trouble.OTHER, f"the service says {error}"), checks))


def test_an_error_is_a_finding_and_the_other_checks_go_on():
    works = Check("b", lambda: [Finding(True, "b", "works")], "")
    assert found(Check("a", fails(OSError("no")), "do this", "no answer: "), works) == [
        Finding(False, "a", "no answer: the service says no", "do this"),
        Finding(True, "b", "works"),
    ]
    assert found(Check("a", fails(StepConfigError("wrong")), "correct it", "no answer: ")) == [
        Finding(False, "a", "wrong", "correct it")
    ]


def test_nothing_follows_a_needed_check_that_fails():
    needed = Check("a", lambda: [Finding(False, "a", "is missing", "make it")], "", is_needed=True)
    after = Check("b", lambda: [Finding(True, "b", "works")], "")
    assert [one.subject for one in found(needed, after)] == ["a"]
