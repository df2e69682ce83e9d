"""Times of Airflow's context in a step with pendulum, and in one without."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest

NOON = datetime(2026, 1, 31, 12, 30, 1, 250_000, tzinfo=UTC)
EAST = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
SOURCE = """
import sys
sys.modules["pendulum"] = None  # as if it were not installed

def f(logical_date):
    {body}
"""


def run(folder, body, value=NOON, python=None):
    step = folder.reference(SOURCE.format(body=body), "f", logical_date=value.isoformat())
    step.manifest["kwargs"]["logical_date"] = step.entry(value, lambda obj, _: pickle.dumps(obj, 4))
    return step.set(moments=["logical_date"]).run(*([python] if python else []))


@pytest.mark.parametrize("value", [NOON, EAST])
def test_a_time_is_a_datetime_where_there_is_no_pendulum(folder, edge_python, value):
    body = "return [isinstance(logical_date, __import__('datetime').datetime), logical_date.isoformat()]"
    assert run(folder, body, value, edge_python).value() == [True, value.isoformat()]


@pytest.mark.parametrize("name", ["add", "in_timezone", "int_timestamp", "to_date_string"])
def test_a_method_that_only_pendulum_has_says_so(folder, edge_python, name):
    failure = run(folder, f"return logical_date.{name}", python=edge_python).failure
    assert failure["summary"] == (
        f"The step raised AttributeError: this time is a datetime.datetime and has no {name!r}: the times of "
        "Airflow's context are pendulum.DateTime objects only if the step's Python has pendulum; add "
        "requirements=['pendulum'], or use an image that has it"
    )


def test_it_counts_and_is_compared_as_any_datetime(folder):
    body = """from datetime import datetime, timedelta, timezone
    later = logical_date + timedelta(days=1)
    noon = datetime(2026, 1, 31, 12, 30, 1, 250000, timezone.utc)
    is_equal = [logical_date == noon, hash(logical_date) == hash(noon)]
    return [later.isoformat(), (later - logical_date).days, is_equal]"""
    assert run(folder, body).value() == ["2026-02-01T12:30:01.250000+00:00", 1, [True, True]]


def test_it_is_returned_as_a_datetime(folder):
    body = "import copy\n    return [copy.deepcopy(logical_date), {'at': logical_date}]"
    first, second = run(folder, body).value(lambda data, buffers: pickle.loads(data, buffers=buffers))
    assert [type(first), type(second["at"])] == [datetime, datetime]
    assert first == second["at"] == NOON


@pytest.mark.parametrize("value", [NOON, EAST])
def test_a_time_is_pendulum_s_where_there_is_pendulum(folder, value):
    source = (
        "def f(logical_date): return [type(logical_date).__module__, logical_date.add(months=1).isoformat()]"
    )
    step = folder.reference(source + "\n", "f", logical_date="")
    step.manifest["kwargs"]["logical_date"] = step.entry(value, lambda obj, _: pickle.dumps(obj, 4))
    module, text = step.set(moments=["logical_date"]).run().value()
    assert (module, text) == ("pendulum.datetime", value.replace(month=2, day=28).isoformat())
