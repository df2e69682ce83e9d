"""A Spot machine that is taken away: the step goes on where its checkpoint is, and never runs twice."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from airflow_stepop.exceptions import OutcomeLostError, StoreError
from airflow_stepop.hooks.sagemaker import outcome
from airflow_stepop.job import JobState
from airflow_stepop.payload.call import CommandCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("containers")
SPOT = {"use_spot_instances": True, "max_wait_time_in_seconds": 7200, "max_runtime_in_seconds": 3600}


def command(marker: str) -> list[str]:
    """A step without a checkpoint: its second attempt ends, its first one waits."""
    script = (
        f'echo "attempt $STEPOP_ATTEMPT"; if [ "$STEPOP_ATTEMPT" = 1 ]; then sleep 600; fi; echo {marker}'
    )
    return ["sh", "-c", script]


@pytest.mark.parametrize("has_sigterm", [False, True])
def test_an_interruption(service, hook, submit, has_sigterm):
    """The same job starts again, with a new log stream and the next number."""
    service.do("settings", spot_sigterm=has_sigterm)
    handle = submit(command("done"), settings=SPOT, timeout_s=3600.0)
    wait_until(lambda: service.log(handle.name), "the first attempt", holds=lambda log: "attempt 1" in log)
    service.do("interrupt", job=handle.name)
    service.wait_for(handle.name, "Completed", "Failed")
    status = hook.fresh_status(handle)
    assert status.state is JobState.SUCCEEDED, service.log(handle.name, 1)
    assert status.usage["attempts"] == 2
    assert "attempt 2" in service.log(handle.name, 1)
    report = hook.outcome(handle)
    assert report.digest
    assert json.loads(report.data)["status"] == "success"
    lines = [line.text for line in hook.logs({handle: None})[handle].lines]
    assert lines.index("attempt 1") < lines.index("attempt 2") < lines.index("done")


def test_an_attempt_that_has_ended_does_not_run_again(service, hook, submit):
    """The service starts the job again after the step's end: the next attempt finds its outcome."""
    service.do("plan", job="*", internal_errors=1)
    handle = submit(["sh", "-c", 'echo "ran $STEPOP_ATTEMPT"'], settings={"max_retry_attempts": 1})
    service.wait_for(handle.name, "Completed", "Failed")
    assert len(service.report()["jobs"][handle.name]["streams"]) == 2
    lines = [line for attempt in (0, 1) for line in service.log(handle.name, attempt)]
    assert [line for line in lines if line.startswith("ran")] == ["ran 1"], lines
    assert hook.fresh_status(handle).state is JobState.SUCCEEDED
    report = hook.outcome(handle)
    assert report.digest, "the receipt of the first attempt proves what the second one has restored"
    assert json.loads(report.data)["status"] == "success"


def test_an_attempt_that_has_ended_and_whose_receipt_is_lost(service, hook, step, monkeypatch):
    """The log went with the machine: nobody vouches for what the last attempt has found in the bucket."""
    service.do("plan", job="*", internal_errors=1)
    service.do("settings", late_logs_hold=True)
    made = step(lambda: {"a": 1}, settings={"max_retry_attempts": 1})
    handle = hook.submit(made.spec, made.payload)
    service.wait_for(handle.name, "Completed", "Failed")
    monkeypatch.setattr(outcome, "LATE_S", 0.0)
    with pytest.raises(OutcomeLostError, match="several times, and its receipt is not in") as lost:
        hook.outcome(handle)
    assert str(lost.value).endswith("took its last log lines along: clear the task to run the step again")


def test_a_failure_that_has_ended_does_not_run_again(service, hook, submit):
    """The reason of the second attempt has no receipt: that of the first one is in its log."""
    service.do("plan", job="*", internal_errors=1)
    script = 'echo "ran $STEPOP_ATTEMPT"; exit 3'
    handle = submit(["sh", "-c", script], settings={"max_retry_attempts": 1})
    job = service.wait_for(handle.name, "Completed", "Failed")
    text = "AlgorithmError: user_error: The command 'sh' ended with exit code 3"
    assert job["FailureReason"].startswith(text), "no receipt is in front"
    assert "ran 2" not in service.log(handle.name, 1)
    report = hook.outcome(handle)
    assert report.digest
    assert json.loads(report.data)["failure"]["exit_code"] == 3


@pytest.mark.once
def test_a_reclaim_between_the_end_and_the_copy(service, hook, step, store):
    """All that the step has written comes back: a large result, and its own files in /opt/ml/model."""
    service.do("plan", job="*", hold=["Training"])
    script = (
        "mkdir -p /opt/ml/model/epochs; echo 7 > /opt/ml/model/epochs/last; "
        'head -c 100000 /dev/zero > large; echo "ran $STEPOP_ATTEMPT"'
    )
    call = CommandCall(argv=["sh", "-c", script], inputs={}, outputs=["large"])
    made = step(call, settings=SPOT, timeout_s=3600.0)
    handle = hook.submit(made.spec, made.payload)

    def kept():
        return [path for path in store.list("jobs") if "/stepop-started/kept-" in path]

    wait_until(kept, "the record, a segment and a file in the bucket", holds=lambda found: len(found) == 3)
    assert not list(store.list("results"))
    service.do("interrupt", job=handle.name)
    wait_until(lambda: len(service.report()["jobs"][handle.name]["streams"]) == 2, "the next attempt")
    service.do("release", job="*", phase="Training")
    service.wait_for(handle.name, "Completed", "Failed")
    lines = [line for attempt in (0, 1) for line in service.log(handle.name, attempt)]
    assert [line for line in lines if line.startswith("ran")] == ["ran 1"], lines
    found = read_outcome(hook.outcome(handle), made.spec.name, made.spec.nonce)
    assert to_xcom(found["result"])["large"].load() == bytes(100_000)
    (epoch,) = [path for path in store.list("results") if path.endswith("/model/epochs/last")]
    assert bytes(store.read(epoch, store.size_of(epoch))) == b"7\n"
    assert hook.status([handle])[handle].usage["attempts"] == 2
    hook.delete(handle)
    assert kept() == [], "the copies go with the job's input"


def test_the_checkpoint_is_there_after_an_interruption(service, hook, submit, store):
    """The machine goes without a signal: what the last periodic snapshot has is in the next attempt.

    The runner saves a snapshot after each change while the step runs, and the service copies it.
    """
    script = (
        'cd "$STEPOP_CHECKPOINT_DIR"; cat epoch 2>/dev/null && exit 0; echo "epoch 1" > epoch; '
        "until ls /opt/ml/checkpoints/*.tar 2>/dev/null; do sleep 0.1; done; "
        'echo "epoch 2" > epoch; sleep 600'
    )
    uri = store.uri("checkpoints/team/train/1/fit/-1/abc")
    handle = submit(["sh", "-c", script], settings=SPOT, timeout_s=3600.0, checkpoint_uri=uri)

    def snapshot():
        found = [path for path in store.list("checkpoints") if path.endswith(".tar")]
        with suppress(StoreError):  # it is replaced in this moment
            return bytes(store.read(found[0], store.size_of(found[0]))) if found else b""
        return b""

    wait_until(snapshot, "the second snapshot", holds=lambda data: b"epoch 2" in data)
    service.do("interrupt", job=handle.name)
    service.wait_for(handle.name, "Completed", "Failed")
    assert service.log(handle.name, 1)[-2:-1] == ["epoch 2"], service.log(handle.name, 1)
    assert hook.fresh_status(handle).state is JobState.SUCCEEDED
