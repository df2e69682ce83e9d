"""Labels in the form that a service accepts."""

from __future__ import annotations

import re

import pytest

from airflow_stepop.hooks.common.labels import LabelRules, matches

KUBERNETES = LabelRules("A-Za-z0-9._-", length=63)
GOOGLE = LabelRules("a-z0-9_-", length=63, edges="a-z0-9_-")  # accepted by Google Cloud
TEXTS = ["", "d", "a.b_c-d", "x" * 63, "manual__2026-01-01T00:00:00+00:00", "ü/é", "x" * 200, "-", "A", "é"]


@pytest.mark.parametrize(
    ("rules", "taken"), [(KUBERNETES, r"[A-Za-z0-9._-]{0,63}"), (GOOGLE, r"[a-z0-9_-]{0,63}")]
)
def test_any_text_becomes_a_value_that_the_service_takes(rules, taken):
    values = [rules.encode(text) for text in TEXTS]
    assert all(re.fullmatch(taken, value) for value in values)
    assert len(set(values)) == len(TEXTS)
    assert [rules.encode(value) for value in values] == values


def test_a_job_matches_by_all_labels_that_are_wanted():
    original = {"dag_id": "d", "task_id": "t"}
    assert matches(original, {})
    assert matches(original, {"dag_id": "d"})
    assert not matches(original, {"dag_id": "d", "task_id": "u"})
    assert not matches(original, {"run_id": "r"})
