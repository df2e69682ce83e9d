"""Steps that attack: the results of other steps with the same role, and their own job.

Such a step may write objects of the store and lines of the log, and reads its own request.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import pytest

from airflow_stepop.core.naming import job_name
from airflow_stepop.exceptions import OutcomeLostError, OutcomeNotReadyError
from airflow_stepop.hooks.common.receipts import (
    Receipt,
    find_receipt,
    is_of_runner,
    signed_receipt,
    with_receipt,
)
from airflow_stepop.hooks.common.sealing import seal_key
from airflow_stepop.hooks.sagemaker import outcome
from airflow_stepop.hooks.sagemaker.outcome import Output, outcome_of
from airflow_stepop.hooks.sagemaker.request import signed_nonce
from airflow_stepop.runner.protocol import RECEIPT_PREFIX
from tests.support.sagemaker_attacks import FORGED, SPOT, plant, receipt_for

# -- another step with the same role: it may write objects and log lines


def say(service: Any, handle: Any, *texts: str) -> None:
    """Write lines into the log of a job, as logs:PutLogEvents does."""
    client = service.client("logs")
    group = "/aws/sagemaker/TrainingJobs"
    streams = client.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{handle.name}/")
    name = streams["logStreams"][-1]["logStreamName"]
    events = [{"timestamp": int(time.time() * 1000), "message": text} for text in texts]
    client.put_log_events(logGroupName=group, logStreamName=name, logEvents=events)


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("mac", ["", "0" * 32, "own", "copied", "\udcff"], ids=str)
def test_a_receipt_that_another_step_wrote_is_not_believed(service, hook, submit, store, mac):
    """It has the digest of the forged outcome, and comes after that of the runner."""
    other = submit(["true"])
    handle = submit(["true"])
    for one in (other, handle):
        service.wait_for(one.name, "Completed")
    genuine = hook.outcome(handle)
    own = find_receipt(service.log(other.name))  # what the attacker's own runner has written
    assert own is not None
    assert own.mac
    text = {"own": own.mac, "copied": (find_receipt(service.log(handle.name)) or own).mac}.get(mac, mac)
    forged = {**json.loads(receipt_for(FORGED)), **({"mac": text} if text else {})}
    plant(store, handle)
    say(service, handle, RECEIPT_PREFIX + json.dumps(forged))
    fresh = type(hook)()
    chunk = fresh.logs({handle: None})[handle]
    known = with_receipt(handle, signed_receipt(handle, chunk.receipt))
    for one in (handle, known):
        report = fresh.outcome(one)
        assert report.digest == genuine.digest, "the worker refuses the bytes, whose digest is another one"


@pytest.mark.usefixtures("containers")
def test_without_the_receipt_of_the_runner_nothing_that_was_forged_is_taken(
    service, hook, submit, store, monkeypatch
):
    """Not even data, which is otherwise believed when a receipt is lost."""
    service.do("settings", late_logs_hold=True)
    handle = submit(["true"])
    service.wait_for(handle.name, "Completed")
    plant(store, handle)
    monkeypatch.setattr(outcome, "LATE_S", 0.0)
    say(service, handle, RECEIPT_PREFIX + receipt_for(FORGED))
    with pytest.raises(OutcomeLostError, match="a receipt that its runner did not write"):
        hook.outcome(handle)


@pytest.mark.usefixtures("containers")
def test_a_job_of_an_earlier_version_has_a_receipt_without_a_mac(service, hook, submit):
    """Its request says so, and nobody can change the request of a job."""
    handle = submit(["true"])
    service.wait_for(handle.name, "Completed")
    job = service.client("sagemaker").describe_training_job(TrainingJobName=handle.name)
    argv = job["AlgorithmSpecification"]["ContainerArguments"]
    at = argv.index("--sign")
    before = {**job, "AlgorithmSpecification": {"ContainerArguments": argv[:at] + argv[at + 2 :]}}
    receipt = find_receipt(service.log(handle.name))
    assert receipt is not None
    texts = [RECEIPT_PREFIX + json.dumps({**receipt.to_json(), "mac": ""})]
    output = Output(handle.detail["results"])
    assert outcome_of(handle, before, output, lambda: texts).digest == receipt.digest
    with pytest.raises((OutcomeLostError, OutcomeNotReadyError)):
        outcome_of(handle, job, output, lambda: texts)


def test_the_nonce_of_another_job_gives_no_key():
    """Whoever deletes a job and creates another of its name would choose the nonce, and know the key."""
    keys = [word for nonce in ("n1", "n2") for word in ("--seal", seal_key(nonce).hex())]
    name, command = job_name("a", "b", "n1"), {"ContainerArguments": [*keys, "--sign", "1"]}
    record = {"TrainingJobName": name, "AlgorithmSpecification": command}
    assert signed_nonce({**record, "Environment": {"STEPOP_NONCE": "n1"}}) == "n1"
    with pytest.raises(OutcomeLostError, match="is not the one that was submitted"):
        signed_nonce({**record, "Environment": {"STEPOP_NONCE": "n2"}})
    assert not is_of_runner(Receipt("d", 1), "")


# -- its own job


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("code", [0, 3], ids=["success", "failure"])
def test_a_step_that_writes_receipts_and_a_reason_of_its_own(service, hook, submit, code):
    """The runner's receipt is the last one, and its reason replaces that of the step."""
    own = receipt_for(FORGED)
    script = (
        f"echo '{RECEIPT_PREFIX}{own}'; echo '{own}' > /opt/ml/output/failure; "
        f"mkdir -p /opt/ml/model/stepop; echo forged > /opt/ml/model/stepop/outcome.json; exit {code}"
    )
    handle = submit(["sh", "-c", script])
    service.wait_for(handle.name, "Completed", "Failed")
    report = hook.outcome(handle)
    assert report.digest == hashlib.sha256(report.data).hexdigest()
    assert report.data != FORGED
    assert json.loads(report.data)["status"] == ("failure" if code else "success")


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("is_restarted", [False, True], ids=["once", "may restart"])
def test_a_step_that_makes_links_in_the_output(service, hook, submit, store, is_restarted):
    """Links out of the folder, to nothing, and in a circle: they cost the copy for a restart, no result."""
    script = (
        "cd /opt/ml/model && ln -s /etc/passwd file && ln -s /nowhere dangling && ln -s . circle && "
        "ln -s loop loop && ln -s /opt/ml/input/config folder && mkdir -p stepop && ln -s /etc stepop/etc"
    )
    handle = submit(["sh", "-c", script], settings=SPOT if is_restarted else {}, timeout_s=3600.0)
    job = service.wait_for(handle.name, "Completed", "Failed")
    assert job["TrainingJobStatus"] == "Completed", service.log(handle.name)
    report = hook.outcome(handle)
    assert report.digest == hashlib.sha256(report.data).hexdigest()
    assert json.loads(report.data)["status"] == "success"
    told = [line for line in service.log(handle.name) if "is neither a file nor a folder" in line]
    assert len(told) == is_restarted


@pytest.mark.usefixtures("containers")
@pytest.mark.parametrize("target", ["/tmp/mine", "/nowhere/mine", "/opt/ml/input/data/stepop/manifest.json"])
def test_a_step_that_puts_a_link_in_place_of_its_outcome(service, hook, submit, target):
    """Whatever comes back, it is what the receipt says, or nothing."""
    handle = submit(["sh", "-c", f"mkdir -p /opt/ml/model/stepop; cd $_; ln -sf {target} outcome.json"])
    service.wait_for(handle.name, "Completed", "Failed")
    try:
        report = hook.outcome(handle)
    except (OutcomeLostError, OutcomeNotReadyError):
        return
    assert report.digest == hashlib.sha256(report.data).hexdigest()
    assert json.loads(report.data)["job"] == handle.name


@pytest.mark.usefixtures("containers")
def test_what_a_step_sees(service, hook, submit):
    """The credentials of the role, and in its own command the key of its own receipt: of no other job."""
    script = (
        "env | sed s/^/env:/; cat /opt/ml/input/config/* | sed s/^/config:/; "
        "tr '\\0' '\\n' < /proc/$PPID/cmdline | sed s/^/argv:/"
    )
    handle = submit(["sh", "-c", script])
    service.wait_for(handle.name, "Completed")
    asked = service.client("sagemaker").describe_training_job(TrainingJobName=handle.name)
    key = seal_key(asked["Environment"]["STEPOP_NONCE"]).hex()
    lines = service.log(handle.name)
    assert [line for line in lines if key in line] == [f"argv:{key}"]
    assert [line for line in lines if line.startswith("env:AWS_CONTAINER_CREDENTIALS_")]
    assert [
        line for line in lines if "AIRFLOW_" in line.replace("AIRFLOW_HOME", "") or "X-Amz-Signature" in line
    ] == []
