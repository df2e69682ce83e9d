"""The recovery retry: there when a worker is lost, and out of the way otherwise."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.definitions.retry_policy import RetryAction
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_stepop import RemoteStepOperator
from airflow_stepop.exceptions import (
    PayloadError,
    StepConfigError,
    StepFailedError,
    StepInterruptedError,
)
from airflow_stepop.job import Category, Failure
from airflow_stepop.reraise import to_exception
from airflow_stepop.retries import RecoveryRetryPolicy

RAISED = Failure(
    Category.USER_ERROR,
    "ValueError: the step's own",
    exception={"module": "builtins", "qualname": "ValueError", "mro": ["ValueError"], "message": "own"},
)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (to_exception(RAISED, "job 1"), RetryAction.FAIL),
        (StepConfigError("no such setting"), RetryAction.FAIL),
        (AirflowTaskTimeout("execution_timeout"), RetryAction.FAIL),
        (ConnectionError("Airflow's API, while the result was handed over"), RetryAction.DEFAULT),
        (PayloadError("cannot be sent"), RetryAction.FAIL),
        (StepFailedError(Failure(Category.USER_ERROR, "x")), RetryAction.FAIL),
        (StepFailedError(Failure(Category.OOM, "x")), RetryAction.FAIL),
        (StepFailedError(Failure(Category.TIMEOUT, "x")), RetryAction.FAIL),
        (StepFailedError(Failure(Category.LOST, "x")), RetryAction.DEFAULT),
        (StepFailedError(Failure(Category.INFRA, "x")), RetryAction.DEFAULT),
        (StepFailedError(Failure(Category.PREEMPTED, "x")), RetryAction.DEFAULT),
        (StepInterruptedError("lost touch"), RetryAction.DEFAULT),
    ],
)
def test_what_is_retried(error, action):
    assert RecoveryRetryPolicy().evaluate(error, 1, 1).action is action


def command(**kwargs):
    return RemoteStepOperator(task_id="t", command=["true"], **kwargs)


def function(**kwargs):
    @task.remote_step(task_id="t", **kwargs)
    def step(x=1): ...

    return step


def mapped(**kwargs):
    return RemoteStepOperator.partial(task_id="t", **kwargs).expand(command=[["true"]])


MAKERS = {
    "command": command,
    "function": lambda **kwargs: function(**kwargs)().operator,
    "mapped command": mapped,
    "mapped function": lambda **kwargs: function(**kwargs).expand(x=[1, 2]).operator,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestDefaults:
    """The same for a plain and a mapped task, for a command and a function."""

    def test_one_retry_for_recovery(self, make):
        with DAG("d", schedule=None):
            made = make()
        assert made.retries == 1
        assert isinstance(made.retry_policy, RecoveryRetryPolicy)
        assert made.retry_delay == timedelta(seconds=5)

    @pytest.mark.parametrize("retries", [0, 1, 3])
    def test_the_argument_wins(self, make, retries):
        with DAG("d", schedule=None):
            made = make(retries=retries)
        assert made.retries == retries
        assert made.retry_policy is None

    def test_the_default_args_win(self, make):
        with DAG("d", schedule=None, default_args={"retries": 2}):
            made = make()
        assert made.retries == 2
        assert made.retry_policy is None

    def test_the_configuration_wins(self, make, monkeypatch):
        monkeypatch.setenv("AIRFLOW__CORE__DEFAULT_TASK_RETRIES", "4")
        with DAG("d", schedule=None):
            made = make()
        assert made.retry_policy is None

    def test_the_users_delay_stays(self, make):
        with DAG("d", schedule=None):
            made = make(retry_delay=timedelta(minutes=3))
        assert made.retry_delay == timedelta(minutes=3)
