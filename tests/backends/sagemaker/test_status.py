"""The states of many jobs within the service's rates, and what happens to jobs that the service changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_stepop.failure import Category
from airflow_stepop.hooks.sagemaker.hook import SageMakerStepHook
from airflow_stepop.job import JobHandle, JobState
from tests.support.sagemaker import SageMaker
from tests.support.waiting import wait_until

SPOT = {"use_spot_instances": True, "max_wait_time_in_seconds": 7200, "max_runtime_in_seconds": 3600}


@pytest.fixture
def many(
    service: SageMaker, hook: SageMakerStepHook, step: Callable[..., Any]
) -> Callable[[int], list[JobHandle]]:
    """Return a function that creates jobs at once, as a service without a limit lets one."""

    def create(count: int) -> list[JobHandle]:
        made, client = step(), service.client("sagemaker")
        hook.submit(made.spec, made.payload)
        first = client.describe_training_job(TrainingJobName=made.spec.name)
        fields = (
            "AlgorithmSpecification",
            "RoleArn",
            "OutputDataConfig",
            "ResourceConfig",
            "StoppingCondition",
        )
        request = {name: first[name] for name in (*fields, "Environment")}
        names = [f"s-many-{index:012x}" for index in range(count)]

        def one(name: str) -> JobHandle:
            arn = client.create_training_job(TrainingJobName=name, **request)["TrainingJobArn"]
            return hook._handle(arn, name, made.spec.result_uri, "", time.time())

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(one, names))

    return create


def used(service: SageMaker, before: dict[str, int]) -> dict[str, int]:
    after = service.report()["answers"]
    return {
        name: number - before.get(name, 0) for name, number in after.items() if number != before.get(name)
    }


def test_many_jobs_within_the_rates(service, hook, many):
    """A restart with all of them in flight, steady state, and the end of some: no request is refused."""
    service.do("plan", job="*", run=False, hold=["Training"])
    handles = many(300)
    service.do("settings", rates="real", list_lag_s=0.2)
    listed = hook._in(None).jobs
    wait_until(
        lambda: {str(one["TrainingJobName"]) for one in listed.created_since(0)},
        "the list to have all jobs",
        holds=lambda names: names >= {handle.name for handle in handles},
    )
    before = service.report()["answers"]
    fresh = SageMakerStepHook()
    assert {status.state for status in fresh.status(handles).values()} <= {JobState.PENDING, JobState.RUNNING}
    assert used(service, before)["ListTrainingJobs 200"] <= 5
    assert "DescribeTrainingJob 200" not in used(service, before)
    before = service.report()["answers"]
    fresh.status(handles)
    assert used(service, before)["ListTrainingJobs 200"] <= 5
    before = service.report()["answers"]
    service.do("release", job="s-many-00000000000*", phase="Training")
    ended = [handle for handle in handles if handle.name.startswith("s-many-00000000000")]
    wait_until(
        lambda: fresh.status(handles),
        "the ends",
        holds=lambda seen: all(seen[handle].state is JobState.SUCCEEDED for handle in ended),
    )
    answers = used(service, before)
    assert answers["DescribeTrainingJob 200"] == len(ended) == 16
    assert not [name for name in answers if "Throttling" in name]


def test_jobs_that_vanish(service, hook, many):
    service.do("plan", job="*", run=False, hold=["Training"])
    handles = many(3)
    service.do("vanish", job=handles[0].name)
    states = [status.state for status in hook.status(handles).values()]
    assert states[0] is JobState.GONE
    assert JobState.GONE not in states[1:]


@pytest.mark.parametrize("skew_s", [-280.0, 280.0])
def test_a_clock_that_differs_by_five_minutes(service, hook, many, skew_s):
    service.do("settings", clock_skew_s=skew_s)
    service.do("plan", job="*", run=False, hold=["Training"])
    handles = many(5)
    fresh = SageMakerStepHook()
    assert JobState.GONE not in {status.state for status in fresh.status(handles).values()}
    service.do("release", job="*", phase="Training")
    wait_until(
        lambda: fresh.status(handles),
        "the ends",
        holds=lambda seen: {status.state for status in seen.values()} == {JobState.SUCCEEDED},
    )


def test_a_job_that_waits_for_capacity(service, hook, submit):
    service.do("plan", job="*", run=False, pending=True, hold=["Pending"])
    handle = submit()
    service.wait_for(handle.name, "Pending")
    status = hook.status([handle])[handle]
    assert status.state is JobState.PENDING
    assert (status.native, status.message) == ("Pending", "Training job waiting for capacity")


def test_a_message_for_jobs_of_a_list(service, hook, many):
    service.do("plan", job="*", run=False, pending=True, hold=["Pending"])
    handles = many(5)
    for handle in handles:
        service.wait_for(handle.name, "Pending")
    assert {s.message for s in hook.status(handles).values()} == {"Training job waiting for capacity"}


def test_a_stop_that_takes_a_while(service, hook, submit):
    """The secondary status stays what it was, and the job is not over."""
    service.do("plan", job="*", run=False, hold=["Starting", "Stop"])
    handle = submit()
    hook.cancel(handle)
    assert hook.status([handle])[handle].state is JobState.PENDING
    hook.cancel(handle)
    service.do("release", job="*", phase="Stop")
    service.wait_for(handle.name, "Stopped")
    status = hook.fresh_status(handle)
    assert status.state is JobState.CANCELLED
    assert status.failure is not None
    assert status.failure.category is Category.CANCELLED


@pytest.mark.parametrize(
    ("plan", "state", "category"),
    [
        ({"train_s": 1000.0}, "MaxRuntimeExceeded", Category.TIMEOUT),
        ({"pending": True, "hold": ["Pending"]}, "MaxWaitTimeExceeded", Category.NO_CAPACITY),
    ],
)
def test_limits_of_the_service(service, hook, submit, plan, state, category):
    service.do("settings", second_s=0.0002)
    service.do("plan", job="*", run=False, **plan)
    handle = submit(settings=SPOT, timeout_s=3600.0)
    service.wait_for(handle.name, "Stopped")
    status = hook.fresh_status(handle)
    assert (status.state, status.native) == (JobState.FAILED, state)
    assert status.failure is not None
    assert status.failure.category is category


def test_usage_of_preferences(service, hook, submit):
    """The machine that was chosen is the one that is paid for."""
    service.do("plan", job="*", run=False)
    service.do("settings", no_capacity=["ml.m5.large"])
    handle = submit(settings={"instance_type": ["ml.m5.large", "ml.m5.xlarge"]})
    service.wait_for(handle.name, "Completed")
    usage = hook.fresh_status(handle).usage
    assert (usage["instance_type"], usage["instance_count"]) == ("ml.m5.xlarge", 1)
    assert usage["billable_s"] >= 1


def test_an_interruption_is_counted_and_waits(service, hook, submit):
    service.do("plan", job="*", run=False, train_s=1000.0, hold=["Interrupted"])
    handle = submit(settings=SPOT, timeout_s=3600.0)
    service.wait_for(handle.name, "Training")
    service.do("interrupt", job=handle.name)
    service.wait_for(handle.name, "Interrupted")
    status = hook.status([handle])[handle]
    assert status.state is JobState.PENDING
    assert status.waits_since is not None
    service.do("plan", job="*", train_s=0.0)
    service.do("release", job="*", phase="Interrupted")
    service.wait_for(handle.name, "Completed")
    assert hook.fresh_status(handle).usage["attempts"] == 2
