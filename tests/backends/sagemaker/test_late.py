"""What comes late, or never: the objects of a job, its receipt in the log, and the right to read the log."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from airflow_stepop.exceptions import OutcomeLostError, OutcomeNotReadyError, StepConfigError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.common.receipts import receipt_of, signed_receipt, with_receipt
from airflow_stepop.hooks.sagemaker import outcome
from airflow_stepop.job import JobState
from airflow_stepop.lifecycle.collecting import OUTCOME_LIMIT_S
from airflow_stepop.lifecycle.failures import not_arrived
from airflow_stepop.payload.call import CommandCall, FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("containers")


@pytest.fixture
def run(hook, step):
    """Return a function that runs a call to its end."""

    def run_to_end(call):
        made = step(call)
        handle = hook.submit(made.spec, made.payload)
        status = wait_until(
            lambda: hook.status([handle])[handle], "the end", holds=lambda seen: seen.state.is_terminal
        )
        return hook, handle, status, made

    return run_to_end


def returns(value):
    return FunctionCall(function=lambda: value, args=(), kwargs={}, reference=None)


FAILS = CommandCall(argv=["python3", "-c", "raise SystemExit(3)"], inputs={}, outputs=[])


def log_queries(service):
    """Return how many requests for logs the log service has got."""
    answers = service.report()["answers"]
    names = ("FilterLogEvents", "DescribeLogStreams", "GetLogEvents")
    return sum(count for answer, count in answers.items() if answer.startswith(names))


def value_of(step, hook, handle):
    return to_xcom(read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)["result"])


@pytest.mark.parametrize("has_receipt", [True, False], ids=["receipt", "only an exit code"])
def test_objects_of_a_failed_job_that_come_late_are_awaited(service, run, has_receipt):
    """The exit code alone says that the runner has left an outcome. Without it the step would run again."""
    service.do("settings", late_objects_hold=True, failure_text=has_receipt)
    hook, handle, status, step = run(FAILS)
    assert status.state is JobState.FAILED
    with pytest.raises(OutcomeNotReadyError, match=r"outcome.json of .* is not below s3://.*/output"):
        hook.outcome(handle)
    service.do("settings", late_objects_hold=False)

    def there():
        try:
            return hook.outcome(handle)
        except OutcomeNotReadyError:
            return None

    report = wait_until(there, "the objects")
    failure = read_outcome(report, step.spec.name, step.spec.nonce)["failure"]
    assert failure["exit_code"] == 3


def test_the_reason_alone_says_why_a_step_failed_whose_objects_never_come(service, run):
    """``FailureReason`` has category, message and exit code; the hint names what is missing."""
    service.do("settings", late_objects_hold=True)
    hook, handle, status, _ = run(FAILS)
    assert status.failure is None, "the outcome says more"
    with pytest.raises(OutcomeNotReadyError) as caught:
        hook.outcome(handle)
    failure = not_arrived(status, caught.value, OUTCOME_LIMIT_S)
    assert (failure.category, failure.exit_code) == (Category.USER_ERROR, 3)
    assert failure.summary == "The command 'python3' ended with exit code 3"
    assert "did not come within 15 minutes: outcome.json of " in failure.hint
    assert not failure.has_succeeded


def test_a_receipt_that_comes_late_is_awaited(service, run):
    service.do("settings", late_logs_hold=True)
    hook, handle, status, step = run(returns(7))
    assert status.state is JobState.SUCCEEDED
    with pytest.raises(OutcomeNotReadyError, match=r"the receipt of .* is not in the log group"):
        hook.outcome(handle)
    service.do("settings", late_logs_hold=False)

    def there():
        try:
            return value_of(step, hook, handle)
        except OutcomeNotReadyError:
            return None

    assert wait_until(there, "the receipt") == 7


def test_without_a_receipt_only_data_is_loaded_after_the_wait(service, run, monkeypatch):
    service.do("settings", late_logs_hold=True)
    hook, handle, _, step = run(returns({"a": 1}))
    monkeypatch.setattr(outcome, "LATE_S", 0.0)
    report = hook.outcome(handle)
    assert report.digest is None
    assert "allow logs:CreateLogStream and logs:PutLogEvents for the role" in report.missing
    assert value_of(step, hook, handle) == {"a": 1}


def test_without_the_right_to_read_logs_the_submit_warns_and_data_is_loaded(service, run, capsys):
    service.deny("logs:FilterLogEvents")
    hook, handle, _, step = run(returns({"a": 1}))
    warnings = [line for line in capsys.readouterr().out.splitlines() if "must not read the logs" in line]
    assert len(warnings) == 1
    assert "(logs:FilterLogEvents)" in warnings[0]
    assert "log-group:/aws/sagemaker/TrainingJobs:*" in warnings[0]
    assert hook.outcome(handle).digest is None, "there is nothing to wait for"
    assert value_of(step, hook, handle) == {"a": 1}


def test_without_the_right_to_read_logs_a_pickle_is_refused_with_what_to_allow(service, run):
    service.deny("logs:*")
    hook, handle, _, step = run(returns(re.compile("a")))
    with pytest.raises(StepConfigError, match="allow logs:DescribeLogStreams and logs:FilterLogEvents"):
        value_of(step, hook, handle)


def test_a_receipt_that_was_handed_over_needs_no_log(service, run):
    hook, handle, _, _ = run(returns(re.compile("a")))
    chunk = wait_until(
        lambda: hook.logs({handle: None}).get(handle), "the receipt", holds=lambda one: one and one.receipt
    )
    known = with_receipt(handle, signed_receipt(handle, chunk.receipt))
    assert json.loads(chunk.receipt)["digest"] == receipt_of(known).digest
    before = log_queries(service)
    assert before > 0
    report = hook.outcome(known)
    assert report.digest == receipt_of(known).digest
    assert log_queries(service) == before
    forged = replace(handle, detail={**known.detail, "receipt": {"text": chunk.receipt, "mac": "0" * 64}})
    assert hook.outcome(forged).digest == report.digest
    assert log_queries(service) > before, "the log was asked"


def test_a_killed_runner_left_nothing_and_is_not_waited_for(service, run):
    crash = (
        "python3",
        "-c",
        "import os, resource\n"
        "for pid in (os.getppid(), 1): resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))",
    )
    hook, handle, status, _ = run(CommandCall(argv=list(crash), inputs={}, outputs=[]))
    assert status.state is JobState.FAILED
    with pytest.raises(OutcomeLostError):
        hook.outcome(handle)
