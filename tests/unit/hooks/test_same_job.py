"""A job that has the name of ours, and is another one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.base import is_same_job, refuse_name
from airflow_stepop.job import FoundJob, JobHandle

HANDLE = JobHandle("cloud", None, "here", "j-1", "j-1", nonce="n", instance="i")


@pytest.mark.parametrize(
    ("handle", "nonce", "instance", "expected"),
    [
        (HANDLE, "n", "i", True),
        (HANDLE, "other", "i", False),
        (HANDLE, "", "i", False),
        (HANDLE, "n", "other", False),
        (HANDLE, "n", "", True),
        (HANDLE, None, "i", True),
        (HANDLE, None, "", True),
        (HANDLE, None, "other", False),
        (replace(HANDLE, instance=""), "n", "other", True),
        (replace(HANDLE, instance=""), "other", "", False),
        (replace(HANDLE, nonce=""), "other", "i", True),
        (replace(HANDLE, nonce="", instance=""), "other", "other", True),
    ],
)
def test_what_both_sides_know_is_compared(handle, nonce, instance, expected):
    assert is_same_job(handle, nonce=nonce, instance=instance) is expected


def test_one_warning_for_each_other_job(caplog):
    handle = replace(HANDLE, id="j-2", name="j-2")
    for _ in range(3):
        is_same_job(handle, nonce="a", instance="i")
        is_same_job(handle, nonce="n", instance="b")
    assert [record.getMessage() for record in caplog.records] == [
        f"cloud job j-2 is gone: another job has its name now ({why}). That job is not believed, and it is "
        "neither cancelled nor deleted"
        for why in ("it has another nonce", "it was created later")
    ]


def test_a_taken_name_is_an_error_that_says_what_to_do():
    with pytest.raises(StepConfigError, match=r"a cloud job j-1 exists already.* Clear the task"):
        refuse_name("cloud job", "j-1")


def test_a_job_of_a_list_has_the_nonce_of_its_labels():
    found = FoundJob(replace(HANDLE, nonce=""), {"nonce": "of its labels"}, 0.0)
    assert (found.handle.nonce, found.handle.instance) == ("of its labels", "i")


def test_a_handle_of_an_earlier_version_has_neither():
    data = {name: value for name, value in HANDLE.to_json().items() if name not in ("nonce", "instance")}
    old = JobHandle.from_json(data)
    assert (old.nonce, old.instance) == ("", "")
    assert old == HANDLE == JobHandle.from_json(HANDLE.to_json())
    assert JobHandle.from_json(HANDLE.to_json()).instance == "i"
