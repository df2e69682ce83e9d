"""More memory after a try that ran out of it: remembered in the record, and only there."""

from __future__ import annotations

import pytest

from airflow_stepop import MoreMemory
from airflow_stepop.core.units import parse_size
from airflow_stepop.failure import Category, Failure
from airflow_stepop.job import JobState
from airflow_stepop.lifecycle.failures import with_memory
from airflow_stepop.waiting.deadlines import StopReason
from tests.support.memory_backend import load_record

GIB = 2**30


@pytest.fixture
def new_try(new_try, hook):
    """Tries of a task with ``on_oom``, and the memory that each job was submitted with."""
    asked = []
    submit = hook.submit

    def note(spec, payload):
        asked.append(spec.resources.memory_bytes)
        return submit(spec, payload)

    hook.submit = note

    def start(**kwargs):
        lifecycle = new_try(**kwargs)
        lifecycle.request.on_oom = MoreMemory(cap="10GiB")
        return lifecycle

    start.asked = asked
    return start


def failed(hook, lifecycle, category, state=JobState.FAILED):
    handle = lifecycle.begin()
    hook.end(handle.id, state, failure=Failure(category, "x"))
    return lifecycle.finish(handle, StopReason.FINISHED)


def test_every_try_that_ran_out_of_memory_is_followed_by_one_with_more(hook, state, new_try):
    for _ in range(5):
        failed(hook, new_try(), Category.OOM)
    assert new_try.asked == [4 * GIB, 6 * GIB, 9 * GIB, 10 * GIB, 10 * GIB]
    assert load_record(state).memory_bytes == 10 * GIB


def test_the_log_and_the_usage_say_it(hook, new_try):
    failed(hook, new_try(), Category.OOM)
    lifecycle = new_try()
    handle = lifecycle.begin()
    line = "The last try ran out of memory with 4 GiB: this try asks for 6 GiB (on_oom: at most 10 GiB)"
    assert line in lifecycle.log.lines
    hook.jobs[handle.id] = hook.jobs[handle.id].__class__(JobState.FAILED, usage={"wall_s": 1.0})
    assert lifecycle.finish(handle, StopReason.FINISHED).usage["asked"]["memory_bytes"] == 6 * GIB


@pytest.mark.parametrize("category", [Category.USER_ERROR, Category.LOST, Category.TIMEOUT])
def test_another_failure_keeps_what_the_last_try_had(hook, new_try, category):
    failed(hook, new_try(), Category.OOM)
    failed(hook, new_try(), category)
    new_try().begin()
    assert new_try.asked == [4 * GIB, 6 * GIB, 6 * GIB]


@pytest.mark.parametrize("change", [{"max_tries": 2}, {"clear_number": 1}, {"key": "other"}])
def test_a_cleared_or_changed_step_begins_anew(hook, new_try, change):
    failed(hook, new_try(), Category.OOM)
    failed(hook, new_try(), Category.OOM)
    new_try(**change).begin()
    assert new_try.asked == [4 * GIB, 6 * GIB, 4 * GIB]


def test_a_resubmission_keeps_it(hook, new_try, preempted):
    failed(hook, new_try(), Category.OOM)
    lifecycle = new_try()
    collected = failed(hook, lifecycle, Category.PREEMPTED)
    assert lifecycle.resubmission(collected) is not None
    assert new_try.asked == [4 * GIB, 6 * GIB, 6 * GIB]


def test_a_job_that_was_lost_is_replaced_by_one_like_it(hook, new_try):
    failed(hook, new_try(), Category.OOM)
    handle = new_try().begin()
    hook.end(handle.id, JobState.GONE)
    new_try().begin()
    assert new_try.asked == [4 * GIB, 6 * GIB, 6 * GIB]


def test_a_submit_that_never_arrived_goes_on_with_it(hook, new_try):
    failed(hook, new_try(), Category.OOM)
    submit = hook.submit

    def fail(spec, payload):
        raise ConnectionError("down")

    hook.submit = fail
    with pytest.raises(ConnectionError):
        new_try().begin()
    hook.submit = submit
    new_try().begin()
    assert new_try.asked == [4 * GIB, 6 * GIB]


def test_more_in_the_dag_file_wins(hook, new_try):
    failed(hook, new_try(), Category.OOM)
    lifecycle = new_try()
    lifecycle.request.resources = lifecycle.request.resources.at_least(parse_size("32GiB"))
    lifecycle.begin()
    assert new_try.asked == [4 * GIB, 32 * GIB]


def test_without_on_oom_nothing_changes(hook, new_try):
    failed(hook, new_try(), Category.OOM)
    lifecycle = new_try()
    lifecycle.request.on_oom = None
    lifecycle.begin()
    assert new_try.asked == [4 * GIB, 4 * GIB]


@pytest.mark.parametrize(
    ("asked", "used", "summary", "hint"),
    [
        (
            2 * GIB,
            1.9 * GIB,
            "The step ran out of memory; it asked for 2 GiB of memory, and it used 1.9 GiB at its peak",
            'raise memory; on_oom=MoreMemory(cap="4GiB") lets the next try ask for more',
        ),
        (
            3 * 10**12,
            None,
            "The step ran out of memory; it asked for 2.73 TiB of memory",
            'raise memory; on_oom=MoreMemory(cap="8TiB") lets the next try ask for more',
        ),
        (
            0,
            GIB,
            "The step ran out of memory; it used 1 GiB at its peak",
            'raise memory; beside a memory, on_oom=MoreMemory(cap="16GiB") lets the next try ask for more',
        ),
    ],
)
def test_the_failure_has_numbers_and_names_on_oom(asked, used, summary, hint):
    found = with_memory(Failure(Category.OOM, "The step ran out of memory", hint="raise memory"), asked, used)
    assert (found.summary, found.hint) == (summary, hint)
    MoreMemory(cap=hint.split('"')[1])


def test_a_failure_that_has_its_numbers_gets_no_others():
    told = "the step used 2.1 GiB of memory, its limit is 2 GiB; it was killed"
    assert with_memory(Failure(Category.OOM, told, hint="raise memory"), 2 * GIB, 2.1 * GIB).summary == told


def test_a_step_that_may_have_run_out_of_memory_has_numbers():
    told = "The step's process was killed by SIGKILL; it may have been the out-of-memory killer"
    found = with_memory(Failure(Category.USER_ERROR, told, hint="give the step more memory"), 0, 3 * GIB)
    assert found.summary == f"{told}; it used 3 GiB at its peak"
    assert found.hint == "give the step more memory", "on_oom would not help: nobody knows the reason"


def test_other_failures_stay_as_they_are():
    other = Failure(Category.USER_ERROR, "The step raised ValueError", hint="more memory")
    assert with_memory(other, GIB, GIB) == other
    init = Failure(Category.OOM, "Init container 'x' failed before the step began", hint="see its last lines")
    assert with_memory(init, 0, None) == init
