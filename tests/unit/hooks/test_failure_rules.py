"""Rules for the texts of a service: the first that matches, without the names in the text."""

from __future__ import annotations

import pytest

from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.common.failure_rules import Rule, failure_by

RULES = (
    Rule(r"\AOutOfMemory\b", Category.OOM, "Out of memory", "raise memory"),
    Rule(
        r"quota '(?P<quota>[^']*)'(?: of (?P<owner>\S+))?",
        Category.QUOTA,
        "no room in {quota}",
        "ask {owner}",
    ),
    Rule(r"\bdenied\b", Category.DENIED),
)


def test_the_first_rule_that_matches_decides() -> None:
    assert failure_by(RULES, "OutOfMemory: denied", native_reason="Ended", exit_code=137) == Failure(
        Category.OOM, "Out of memory", "Ended", 137, "raise memory"
    )
    assert failure_by(RULES, "access denied") == Failure(Category.DENIED, "access denied")
    assert failure_by(RULES, "all is well") is None


def test_the_summary_has_the_groups_of_the_pattern() -> None:
    """Also of a text that does not count when rules are compared, such as an address."""
    found = failure_by(RULES, "quota 'a\n b' of people/team")
    assert found == Failure(Category.QUOTA, "no room in a b", hint="ask people/team")
    assert failure_by(RULES, "quota 'a'") == Failure(Category.QUOTA, "no room in a", hint="ask ")


@pytest.mark.parametrize(
    "text", ['job "denied" ended', "image denied/denied:1 ended", "job s-denied-1 ended"]
)
def test_names_do_not_count(text: str) -> None:
    """Quoted words, addresses and the names that the caller knows."""
    assert failure_by(RULES, text, names=["s-denied-1"]) is None


def test_a_pattern_from_the_beginning_sees_the_names() -> None:
    """It says itself where they are: a quotation mark in a name cannot hide the rest of the text."""
    rules = (Rule(r"\AUnable to read .* \(denied\)\Z", Category.DENIED, hint="let the role read"), *RULES)
    found = failure_by(rules, 'Unable to read "b/k (denied)')
    assert found is not None
    assert found.hint == "let the role read"


def test_a_text_with_braces_is_shown_as_it_is() -> None:
    assert failure_by(RULES, "denied {quota} {") == Failure(Category.DENIED, "denied {quota} {")
