"""A Spot machine that is taken away: the step goes on where its checkpoint is, and never runs twice."""

from __future__ import annotations

import json

import pytest

from airflow_stepop.job import JobState
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


@pytest.mark.xfail(
    strict=True,
    reason="the outcome of the first attempt lies in /opt/ml/model, which the next attempt does not have",
)
def test_an_attempt_that_has_ended_does_not_run_again(service, hook, submit):
    """The service starts the job again after the step's end: the next attempt finds its outcome."""
    service.do("plan", job="*", internal_errors=1)
    handle = submit(["sh", "-c", 'echo "ran $STEPOP_ATTEMPT"'], settings={"max_retry_attempts": 1})
    service.wait_for(handle.name, "Completed", "Failed")
    assert len(service.report()["jobs"][handle.name]["streams"]) == 2
    lines = [line for attempt in (0, 1) for line in service.log(handle.name, attempt)]
    assert [line for line in lines if line.startswith("ran")] == ["ran 1"], lines
    assert hook.fresh_status(handle).state is JobState.SUCCEEDED
    assert json.loads(hook.outcome(handle).data)["status"] == "success"


def test_the_checkpoint_is_there_after_an_interruption(service, hook, submit, store):
    """The runner saves snapshots while the step runs; the service copies them into the next attempt."""
    script = (
        'cat "$STEPOP_CHECKPOINT_DIR/epoch" 2>/dev/null && exit 0; '
        'echo "epoch 7" > "$STEPOP_CHECKPOINT_DIR/epoch"; echo written; sleep 600'
    )
    uri = store.uri("checkpoints/team/train/1/fit/-1/abc")
    handle = submit(["sh", "-c", script], settings=SPOT, timeout_s=3600.0, checkpoint_uri=uri)
    wait_until(lambda: service.log(handle.name), "the first attempt", holds=lambda log: "written" in log)
    # the machine may go without a warning, so the snapshot has to be there before
    wait_until(lambda: [path for path in store.list("checkpoints") if path.endswith(".tar")], "a snapshot")
    service.do("interrupt", job=handle.name)
    service.wait_for(handle.name, "Completed", "Failed")
    assert "epoch 7" in service.log(handle.name, 1)
    assert hook.fresh_status(handle).state is JobState.SUCCEEDED
