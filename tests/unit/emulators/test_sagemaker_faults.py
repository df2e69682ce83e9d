"""Faults that a test injects into the SageMaker emulator."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.emulators.sagemaker.faults import Fault
from tests.emulators.sagemaker.model import knows_member
from tests.support.waiting import wait_until
from tests.unit.emulators.requests import refusal


def code_of(client, operation="list_training_jobs", **arguments):
    return refusal(client, operation, **arguments)[0]


def test_the_documented_rates(service):
    """Create one a second, List two, with a burst; each operation for itself."""
    client = service.client("sagemaker")
    service.do("settings", rates={"ListTrainingJobs": [0.001, 2]})
    codes = [code_of(client) for _ in range(4)]
    assert codes == ["200", "200", "ThrottlingException", "ThrottlingException"]
    assert code_of(client, "describe_training_job", TrainingJobName="x") == "ValidationException"
    assert service.report()["answers"]["ListTrainingJobs ThrottlingException"] == 2
    service.do("clear_faults")
    service.do("settings", rates="real")
    assert code_of(client) == "200"


def test_errors_for_some_requests(service):
    client = service.client("sagemaker")
    service.do("fault", kind="unavailable", operation="List*", count=2)
    codes = [code_of(client) for _ in range(3)]
    assert codes == ["ServiceUnavailable", "ServiceUnavailable", "200"]
    service.do("fault", kind="internal")
    assert code_of(client) == "InternalFailure"
    service.do("clear_faults")
    assert code_of(client) == "200"
    service.do("fault", kind="throttle", seconds=0.3)
    wait_until(lambda: code_of(client), "the end", holds=lambda code: code == "200")
    with pytest.raises(AssertionError, match="no kind of fault: flood"):
        service.do("fault", kind="flood")
    with pytest.raises(AssertionError, match="Settings has no layuot"):
        service.do("settings", layuot="plain")


def test_a_fault_ends_after_its_seconds():
    fault = Fault(kind="throttle", operation="List*", seconds=1000.0)
    assert fault.strikes("ListTrainingJobs")
    assert not fault.strikes("DescribeTrainingJob")
    fault.since -= 1001
    assert not fault.strikes("ListTrainingJobs")


def test_an_answer_that_is_lost(jobs):
    """The job was created, and nobody heard of it."""
    from botocore.exceptions import ConnectionClosedError

    jobs.service.do("plan", job="*", run=False)
    jobs.service.do("fault", kind="lost", operation="CreateTrainingJob", after=True, count=1)
    request = jobs.request()
    with pytest.raises(ConnectionClosedError):
        jobs.client.create_training_job(**request)
    assert jobs.service.wait_for(request["TrainingJobName"], "Completed")


def test_a_quota_has_its_name_and_its_numbers(jobs):
    jobs.service.do("plan", job="*", run=False, hold=["Training"])
    jobs.service.do("settings", quotas={"ml.m5.large": 1})
    jobs.create()
    with pytest.raises(jobs.client.exceptions.ResourceLimitExceeded) as caught:
        jobs.create()
    assert caught.value.response["Error"]["Message"] == (
        "The account-level service limit 'ml.m5.large for training job usage' is 1 Instances, with current "
        "utilization of 1 Instances and a request delta of 1 Instances. Please contact AWS support to "
        "request an increase for this limit."
    )
    spot = {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60}
    jobs.service.do("settings", quotas={"ml.m5.large for training job usage": 1})
    jobs.create(EnableManagedSpotTraining=True, StoppingCondition=spot)


def test_no_capacity(jobs):
    jobs.service.do("settings", no_capacity=["ml.m5.large"])
    described = jobs.service.wait_for(jobs.create(), "Failed")
    assert described["FailureReason"].startswith("CapacityError: Unable to provision requested ML compute")
    assert "TrainingStartTime" not in described


@pytest.mark.skipif(
    not knows_member("ResourceConfig", "InstancePreferences"),
    reason="this botocore has no InstancePreferences",
)
def test_the_first_preference_with_capacity(jobs):
    jobs.service.do("plan", job="*", run=False)
    jobs.service.do("settings", no_capacity=["ml.g5.xlarge"])
    preferences = [{"InstanceType": f"ml.{family}.xlarge", "InstanceCount": 1} for family in ("g5", "g6")]
    name = jobs.create(ResourceConfig={"InstancePreferences": preferences, "VolumeSizeInGB": 30})
    config = jobs.service.wait_for(name, "Completed", "Failed")["ResourceConfig"]
    assert (config["SelectedInstanceType"], config["SelectedInstanceCount"]) == ("ml.g6.xlarge", 1)


def test_spot_that_waits_too_long(jobs):
    jobs.service.do("settings", second_s=0.01)
    jobs.service.do("plan", job="*", run=False, pending=True, hold=["Pending"])
    spot = {"MaxRuntimeInSeconds": 10, "MaxWaitTimeInSeconds": 20}
    name = jobs.create(EnableManagedSpotTraining=True, StoppingCondition=spot)
    described = jobs.service.wait_for(name, "MaxWaitTimeExceeded")
    assert described["TrainingJobStatus"] == "Stopped"
    last = described["SecondaryStatusTransitions"][-1]
    assert last["StatusMessage"] == "Training job wait time exceeded MaxWaitTimeInSeconds provided"


def test_billing_of_spot_and_of_a_warm_pool(jobs):
    jobs.service.do("settings", second_s=0.001)
    jobs.service.do("plan", job="*", run=False, train_s=0.2)
    spot = {"MaxRuntimeInSeconds": 10_000, "MaxWaitTimeInSeconds": 20_000}
    name = jobs.create(EnableManagedSpotTraining=True, StoppingCondition=spot)
    described = jobs.service.wait_for(name, "Completed")
    assert 0 < described["BillableTimeInSeconds"] < described["TrainingTimeInSeconds"]
    jobs.service.do("settings", second_s=1000.0)
    machine = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 30}
    name = jobs.create(ResourceConfig={**machine, "KeepAlivePeriodInSeconds": 20})
    described = jobs.service.wait_for(name, "Completed")
    assert described["WarmPoolStatus"]["Status"] == "Available"
    with pytest.raises(jobs.client.exceptions.ResourceInUse):
        jobs.client.delete_training_job(TrainingJobName=name)
    jobs.service.do("settings", second_s=0.001)
    pool = wait_until(
        lambda: jobs.client.describe_training_job(TrainingJobName=name)["WarmPoolStatus"],
        "the end of the warm pool",
        holds=lambda seen: seen["Status"] == "Terminated",
    )
    assert pool["ResourceRetainedBillableTimeInSeconds"] == 20
    jobs.client.delete_training_job(TrainingJobName=name)


def test_a_warm_pool_goes_on_to_the_next_job_that_fits(jobs):
    """The same role, image, machine and volume; the earlier job tells who has it now."""
    jobs.service.do("plan", job="*", run=False)
    machine = {"InstanceType": "ml.m5.large", "InstanceCount": 1, "KeepAlivePeriodInSeconds": 3600}
    names = []
    for size in (30, 31, 30):
        names.append(jobs.create(ResourceConfig={**machine, "VolumeSizeInGB": size}))
        jobs.service.wait_for(names[-1], "Completed")
    pools = [jobs.client.describe_training_job(TrainingJobName=name)["WarmPoolStatus"] for name in names]
    assert [pool["Status"] for pool in pools] == ["Reused", "Available", "Available"]
    assert pools[0]["ReusedByJob"] == names[2]


def test_a_second_stop_may_be_refused(jobs):
    jobs.service.do("plan", job="*", run=False, hold=["Starting", "Stop"])
    name = jobs.create()
    for _ in range(2):
        jobs.client.stop_training_job(TrainingJobName=name)
    jobs.service.do("settings", refuse_second_stop=True)
    text = "The request was rejected because the training job is in status Stopping."
    assert refusal(jobs.client, "stop_training_job", TrainingJobName=name)[1] == text


@pytest.mark.parametrize("phase", ["Pending", "Interrupted"])
def test_stop_works_in_every_phase_of_waiting(jobs, phase):
    jobs.service.do("plan", job="*", run=False, pending=phase == "Pending", hold=[phase], train_s=1000.0)
    spot = {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200}
    name = jobs.create(EnableManagedSpotTraining=True, StoppingCondition=spot)
    if phase == "Interrupted":
        jobs.service.wait_for(name, "Training")
        jobs.service.do("interrupt", job=name)
    jobs.service.wait_for(name, phase)
    jobs.client.stop_training_job(TrainingJobName=name)
    described = jobs.service.wait_for(name, "Stopped")
    assert ("TrainingStartTime" in described) == (phase == "Interrupted")


def test_only_spot_is_interrupted(jobs):
    jobs.service.do("plan", job="*", run=False, hold=["Training"])
    name = jobs.create()
    with pytest.raises(AssertionError, match="only a job with EnableManagedSpotTraining"):
        jobs.service.do("interrupt", job=name)


def test_a_job_that_the_service_fails(jobs):
    jobs.service.do("plan", job="*", run=False, hold=["Downloading"])
    name = jobs.create()
    jobs.service.wait_for(name, "Downloading")
    jobs.service.do("fail", job=name, reason="InternalServerError: We encountered an internal error.")
    assert jobs.service.wait_for(name, "Failed")["FailureReason"].startswith("InternalServerError: ")


def test_the_clock_of_the_service(jobs):
    """Its times are its own; a signature is valid for five minutes around them."""
    jobs.service.do("plan", job="*", run=False)
    jobs.service.do("settings", clock_skew_s=-280.0)
    described = jobs.service.wait_for(jobs.create(), "Completed")
    assert described["CreationTime"] < datetime.now(UTC) - timedelta(seconds=200)
    jobs.service.do("settings", clock_skew_s=-400.0)
    code, text = refusal(jobs.client, "list_training_jobs")
    assert code == "InvalidSignatureException"
    assert text.startswith("Signature not yet current: ")


def test_a_reset_ends_every_job(jobs):
    jobs.service.do("plan", job="*", run=False, hold=["Training"])
    jobs.create()
    jobs.service.do("reset")
    assert not any(jobs.service.report().values())


def test_a_slow_answer(service):
    """The request is carried out, and its answer comes late."""
    service.do("fault", kind="slow", delay_s=0.2, after=True, operation="ListTrainingJobs", count=1)
    began = time.monotonic()
    assert code_of(service.client("sagemaker")) == "200"
    assert time.monotonic() - began >= 0.2


def test_the_rates_of_the_logs(service):
    service.do("settings", rates={"FilterLogEvents": [0.001, 1]})
    logs = service.client("logs")
    codes = [code_of(logs, "filter_log_events", logGroupName="none") for _ in range(2)]
    assert codes == ["ResourceNotFoundException", "ThrottlingException"]
