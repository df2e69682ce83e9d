"""Steps as SageMaker training jobs in a real Airflow: deferred, watched, many at once, ended by the user."""

from __future__ import annotations

import pytest

from tests.support.deployed_steps import WAYS, CloudSteps, DeployedSteps

OVER = {"Completed", "Failed", "Stopped"}
DAG = "training_faults"


@pytest.fixture(scope="module")
def steps(airflow, training_service):
    return DeployedSteps(
        airflow,
        "training",
        lambda: training_service.report()["jobs"],
        is_stopped=lambda job: job["status"] == "Stopped",
        is_over=lambda job: job["status"] in OVER,
    )


class TestSteps(CloudSteps):
    """What holds for every backend."""


def wait_refused(airflow, service, code, count=3):  # each further pause of who asks is longer
    """Wait until so many more requests were answered with an error."""

    def refused():
        answers = service.report()["answers"]
        return sum(number for answer, number in answers.items() if answer.endswith(f" {code}"))

    before = refused()
    airflow.wait_for(refused, f"{count} answers {code}", holds=lambda now: now >= before + count)


def test_storms_of_errors_cost_nothing(steps, airflow, training_service):
    before, service = steps.jobs_of("faults").keys(), training_service
    service.do("fault", kind="throttle", operation="CreateTrainingJob", count=2)
    service.do("fault", kind="lost", operation="CreateTrainingJob", count=1, after=True)
    run = steps.begin("faults")
    storms = {
        "throttle": "ThrottlingException",
        "internal": "InternalFailure",
        "expired": "ExpiredTokenException",
    }
    for kind, code in storms.items():
        service.do("fault", kind=kind)
        wait_refused(airflow, service, code)
        if kind == "expired":  # the steps end while the token is expired
            steps.let_go("faults", run)
        service.do("clear_faults")
    steps.finish("faults", run, before)


@pytest.mark.parametrize("skew_s", [-290.0, 290.0])
def test_clocks_may_differ_by_almost_five_minutes(steps, training_service, skew_s):
    """The service refuses signatures beyond that."""
    before = steps.jobs_of("faults").keys()
    training_service.do("settings", clock_skew_s=skew_s)
    try:
        steps.finish("faults", steps.begin("faults"), before)
    finally:
        training_service.do("settings", clock_skew_s=0.0)


def test_a_job_that_somebody_deleted_is_replaced(steps, airflow, training_service):
    before = steps.jobs_of("faults").keys()
    run = steps.begin("faults")
    for name in steps.jobs_of("faults").keys() - before:
        training_service.do("vanish", job=name)
    for way in WAYS:
        mark = f"{DAG}.{run}.{way}"
        steps.wait_started(mark, 2)
        airflow.let_go(mark)
    assert airflow.wait_run(DAG, run) == dict.fromkeys(WAYS, "success")
    assert len(steps.jobs_of("faults").keys() - before) == len(WAYS)
