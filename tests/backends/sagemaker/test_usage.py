"""What a training job says of its costs."""

from __future__ import annotations

import pytest

from airflow_stepop.hooks.sagemaker.status import usage_of

JOB = {
    "TrainingTimeInSeconds": 9527,
    "BillableTimeInSeconds": 6386,
    "EnableManagedSpotTraining": True,
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
}


def test_the_saving_of_spot_is_the_share_that_is_not_billed():
    used = usage_of(JOB)
    assert used["spot_saving"] == pytest.approx(0.33, abs=0.001)
    assert (used["billable_s"], used["instance_type"], used["instance_count"]) == (6386, "ml.m5.large", 1)


@pytest.mark.parametrize(
    "change",
    [{"EnableManagedSpotTraining": False}, {"TrainingTimeInSeconds": 0}, {"BillableTimeInSeconds": None}],
)
def test_without_spot_there_is_no_saving(change):
    assert "spot_saving" not in usage_of({**JOB, **change})
