"""The recovery retry: there when a worker is lost, and out of the way otherwise."""

from __future__ import annotations

import json
import pickle
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
    UntrustedRecordError,
)
from airflow_stepop.failure import Category, Failure
from airflow_stepop.lifecycle.remote_exception import to_exception
from airflow_stepop.retries import RemoteStepRetryPolicy

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
        (ConnectionError("Airflow's API, while the result was handed over"), RetryAction.RETRY),
        (PayloadError("cannot be sent"), RetryAction.FAIL),
        (UntrustedRecordError("the record of this step is not used"), RetryAction.FAIL),
        (StepFailedError(Failure(Category.USER_ERROR, "x")), RetryAction.FAIL),
        (StepFailedError(Failure(Category.OOM, "x")), RetryAction.FAIL),
        (StepFailedError(Failure(Category.TIMEOUT, "x")), RetryAction.FAIL),
        (StepFailedError(Failure(Category.LOST, "x")), RetryAction.RETRY),
        (StepFailedError(Failure(Category.INFRA, "x")), RetryAction.RETRY),
        (StepFailedError(Failure(Category.LOST, "x", has_succeeded=True)), RetryAction.FAIL),
        (StepFailedError(Failure(Category.INFRA, "x", has_succeeded=True)), RetryAction.FAIL),
        (StepFailedError(Failure(Category.PREEMPTED, "x")), RetryAction.RETRY),
        (StepInterruptedError("lost touch"), RetryAction.RETRY),
    ],
)
def test_what_is_retried(error, action):
    assert RemoteStepRetryPolicy().evaluate(error, 1, 1).action is action


def failed(category, mro=(), **more):
    exception = {"mro": list(mro)} if mro else None
    return StepFailedError(Failure(category, "x", exception=exception), **more)


@pytest.mark.parametrize("category", Category)
def test_the_categories_that_are_tried_again_can_be_chosen(category):
    chosen = RemoteStepRetryPolicy(categories=[category.value])
    assert chosen.evaluate(failed(category), 1, 1).action is RetryAction.RETRY
    assert RemoteStepRetryPolicy(categories=[]).evaluate(failed(category), 1, 1).action is RetryAction.FAIL


def test_a_try_with_more_memory_is_allowed():
    error = failed(Category.OOM, next_memory="6GiB")
    decision = RemoteStepRetryPolicy(categories=[]).evaluate(error, 1, 1)
    assert decision.action is RetryAction.RETRY
    assert decision.reason == "the next try asks for 6GiB"
    assert pickle.loads(pickle.dumps(error)).next_memory == "6GiB"


@pytest.mark.parametrize(
    ("exceptions", "is_retried"),
    [
        ([ConnectionError], True),
        ([OSError], True),
        (["ConnectionError"], True),
        (["builtins.ConnectionError"], True),
        ("requests.exceptions.ConnectionError", True),
        (ConnectionError, True),
        ([ValueError], False),
        (["other.ConnectionError"], False),
        ([], False),
    ],
)
def test_exceptions_of_the_step_that_are_tried_again(exceptions, is_retried):
    """By name, with every class above: the step's class need not be installed here."""
    mro = ["requests.exceptions.ConnectionError", "builtins.ConnectionError", "builtins.OSError"]
    error = failed(Category.USER_ERROR, mro)
    decision = RemoteStepRetryPolicy(exceptions=exceptions).evaluate(error, 1, 3)
    assert (decision.action is RetryAction.RETRY) == is_retried
    assert decision.retry_delay is None  # the task's own


@pytest.mark.parametrize(
    ("policy", "retries", "tries", "delays"),
    [
        (RemoteStepRetryPolicy(), 9, [(1, 9), (2, 9), (3, 9), (9, 9)], [5, 10, 20, 300]),
        (
            RemoteStepRetryPolicy(infra_delay=timedelta(minutes=1)),
            3,
            [(1, 3), (2, 3), (3, 3)],
            [60, 120, 240],
        ),
        (RemoteStepRetryPolicy(max_delay=timedelta(seconds=7)), 3, [(1, 3), (2, 3)], [5, 7]),
        # cleared after four tries: both numbers rose
        (RemoteStepRetryPolicy(), 3, [(5, 7), (6, 7)], [5, 10]),
        (RemoteStepRetryPolicy(), 10**6, [(10**6, 10**6)], [300]),
    ],
)
def test_pauses_double(policy, retries, tries, delays):
    context = {"task": command(retries=retries)}
    found = [policy.evaluate(failed(Category.INFRA), *numbers, context).retry_delay for numbers in tries]
    assert [delay.total_seconds() for delay in found] == delays


def test_the_task_s_own_delay_can_be_kept():
    policy = RemoteStepRetryPolicy(infra_delay=None)
    decision = policy.evaluate(failed(Category.INFRA), 1, 1)
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, None)


def test_a_policy_survives_its_json():
    policy = RemoteStepRetryPolicy(
        infra_delay=None, max_delay=timedelta(hours=1), categories=["quota"], exceptions=[OSError]
    )
    data = json.loads(json.dumps(policy.serialize()))
    assert vars(RemoteStepRetryPolicy.deserialize(data)) == vars(policy)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"categories": ["preemption"]}, "no failure category 'preemption'; they are user_error, oom"),
        ({"infra_delay": 30}, r"infra_delay=30 is not a positive timedelta; write timedelta\(seconds=30\)"),
        ({"max_delay": timedelta(0)}, "max_delay="),
        ({"exceptions": [3]}, "exceptions has 3"),
        ({"exceptions": [int]}, "exceptions has <class 'int'>"),
    ],
)
def test_a_mistake_in_a_policy_is_said(arguments, text):
    with pytest.raises(StepConfigError, match=text):
        RemoteStepRetryPolicy(**arguments)


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

    def test_retries_for_recovery(self, make):
        """They outlast an API server that restarts: 5, 15 and 45 seconds, and the starts of workers."""
        with DAG("d", schedule=None):
            made = make()
        assert made.retries == 3
        assert isinstance(made.retry_policy, RemoteStepRetryPolicy)
        assert made.retry_delay == timedelta(seconds=5)
        assert made.retry_exponential_backoff == 3
        assert made.max_retry_delay == timedelta(minutes=5)

    @pytest.mark.parametrize("default_args", [{}, {"retry_exponential_backoff": 1.5}])
    def test_the_users_backoff_stays(self, make, default_args):
        said = {} if default_args else {"retry_exponential_backoff": 1.5}
        with DAG("d", schedule=None, default_args=default_args):
            made = make(**said)
        assert (made.retries, made.retry_exponential_backoff) == (3, 1.5)

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
        assert made.retry_policy.infra_delay is None

    def test_a_policy_of_ours_waits_as_long_where_it_is_not_asked(self, make):
        """After ``kill -9`` Airflow takes the task's own delay."""
        policy = RemoteStepRetryPolicy(infra_delay=timedelta(seconds=30))
        with DAG("d", schedule=None):
            made = make(retries=3, retry_policy=policy)
        assert (made.retries, made.retry_policy) == (3, policy)
        assert made.retry_delay == timedelta(seconds=30)
