"""Jobs in two regions, as ``airflow stepop jobs`` and ``sweep`` list them."""

from __future__ import annotations

import pytest

from airflow_stepop.inventory.targets import Target, find_jobs
from airflow_stepop.job import JobState
from tests.support.waiting import wait_until

HELD = {"job": "*", "run": False, "hold": ["Starting"]}


@pytest.fixture
def jobs(hook, service, submit, monkeypatch):
    """One job in the connection's own region, and one in the region that a task has named."""
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", "contract")
    service.do("plan", **HELD)
    return submit(), submit(settings={"region_name": "eu-west-1"})


def test_the_region_of_a_record_is_asked(hook, service, jobs):
    near, far = jobs
    problems: list[str] = []
    target = Target("sagemaker", "aws_default")
    assert [job.handle for job in find_jobs([target], {}, problems.append)] == [near]
    location = hook.location_of(far)
    assert location == {"region_name": "eu-west-1"}
    found = find_jobs([target, target.at(location)], {}, problems.append)
    assert {job.handle: job.status.state for job in found} == dict.fromkeys(jobs, JobState.PENDING)
    (job,) = [job for job in found if job.handle == far]
    assert str(job.target) == "sagemaker (aws_default, region_name=eu-west-1)"
    job.hook.cancel(job.handle)
    wait_until(
        lambda: job.hook.fresh_status(far).state, "the end of the job", holds=lambda state: state.is_terminal
    )
    assert hook.fresh_status(near).state is JobState.PENDING
    assert problems == []


def test_the_own_region_is_asked_once(hook, service, jobs):
    """Also if the record names it: the service allows two lists a second."""
    near, _ = jobs
    target = Target("sagemaker", "aws_default")
    before = service.report()["answers"].get("ListTrainingJobs 200", 0)
    once = find_jobs([target], {}, pytest.fail)
    lists = service.report()["answers"]["ListTrainingJobs 200"] - before
    twice = find_jobs([target, target.at(hook.location_of(near))], {}, pytest.fail)
    assert [job.handle for job in once] == [job.handle for job in twice] == [near]
    assert service.report()["answers"]["ListTrainingJobs 200"] - before == lists + 1


def test_a_region_that_refuses_does_not_hide_the_other(service, jobs):
    near, _ = jobs
    service.deny("sagemaker:DescribeTrainingJob", "arn:aws:sagemaker:eu-west-1:*")
    problems: list[str] = []
    target = Target("sagemaker", "aws_default")
    found = find_jobs([target, target.at({"region_name": "eu-west-1"})], {}, problems.append)
    assert [job.handle for job in found] == [near]
    (problem,) = problems
    assert "the jobs of sagemaker (aws_default, region_name=eu-west-1) cannot be listed" in problem
