"""What a category, and an error, means for trying again: the table of docs/failures.md."""

from __future__ import annotations

import re

import pytest

from airflow_stepop import exceptions
from airflow_stepop.exceptions import StepopError, is_final
from airflow_stepop.failure import Category, Failure, StepFailedError
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/failures.md").read_text()
ERRORS = [
    one for one in vars(exceptions).values() if isinstance(one, type) and issubclass(one, StepopError)
] + [StepFailedError]


def rows(heading):
    """Return first cell -> cells of the first table below a heading."""
    table = PAGE.partition(f"{heading}\n")[2].split("\n\n")
    lines = next(part for part in table if part.startswith("|")).splitlines()[2:]
    return {
        cells[1].strip(" `"): [cell.strip() for cell in cells[2:-1]]
        for cells in (line.split("|") for line in lines)
    }


@pytest.mark.parametrize("category", Category)
def test_the_page_says_what_a_category_means_for_trying_again(category):
    said = rows("### What is tried again, category by category")[category.value]
    flags = [category.is_resubmitted, category.is_retried, category.is_replaced]
    assert said == ["yes" if flag else "" for flag in flags]


def test_the_page_says_which_errors_are_final():
    said = re.search(r"Final errors are (.*?)\.", PAGE, re.DOTALL).group(1)
    named = {getattr(exceptions, name) for name in re.findall(r"`(\w+)`", said)}
    assert {one for one in ERRORS if one.is_final} == {
        one for one in ERRORS if one is StepFailedError or issubclass(one, tuple(named))
    }
    assert not is_final(ValueError())


def test_what_is_submitted_again_is_also_retried_and_replaced():
    for category in Category:
        assert not category.is_resubmitted or (category.is_retried and category.is_replaced)


TAIL = [
    "printed",
    "Traceback (most recent call last):",
    '  File "a.py", line 1, in f',
    "    inner()",
    "    ^^^^^^^",
    "  [Previous line repeated 9 more times]",
    "ValueError: first",
    "",
    "The above exception was the direct cause of the following exception:",
    "",
    "  + Exception Group Traceback (most recent call last):",
    '  |   File "a.py", line 2, in g',
    "  |     raise group",
    "  | ExceptionGroup: several (1 sub-exception)",
    "  +-+---------------- 1 ----------------",
    "    | Traceback (most recent call last):",
    '    |   File "a.py", line 3, in h',
    "    |     member()",
    "    | KeyError: 'x'",
    "    +------------------------------------",
    "  indented, and printed later",
]


def test_the_error_of_a_task_leaves_out_the_frames_that_the_log_has():
    failure = Failure(Category.USER_ERROR, "The command failed", log_tail=tuple(TAIL))
    said = str(StepFailedError(failure)).splitlines()[3:]
    assert [line.removeprefix("    ") for line in said] == [
        "printed",
        "ValueError: first",
        "",
        "The above exception was the direct cause of the following exception:",
        "",
        "  | ExceptionGroup: several (1 sub-exception)",
        "  +-+---------------- 1 ----------------",
        "    | KeyError: 'x'",
        "    +------------------------------------",
        "  indented, and printed later",
    ]
    assert '  File "a.py", line 1, in f' in failure.describe()


def test_the_last_lines_may_begin_within_a_traceback():
    failure = Failure(Category.USER_ERROR, "x", log_tail=('  File "a.py", line 1, in f', "    f()", "E: x"))
    assert str(StepFailedError(failure)).splitlines()[2:] == ["  last lines of the step:", "    E: x"]


@pytest.mark.parametrize("tail", [(), ("printed before",)])
def test_the_error_of_a_task_has_the_frames_that_are_not_in_the_log(tail):
    """The log could not be read, or the step had closed its standard error."""
    exception = {"traceback": ['  File "a.py", line 1, in f', "    f()"], "message": "why"}
    failure = Failure(Category.USER_ERROR, "x", exception=exception, log_tail=tail)
    assert '      File "a.py", line 1, in f' in str(StepFailedError(failure)).splitlines()
