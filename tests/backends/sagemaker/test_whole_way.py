"""From submit to value: a bucket that was changed on the way, each layout of the output, a large part."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.job import JobState
from airflow_stepop.payload.call import CommandCall, FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.payload.spill import spill
from airflow_stepop.runner.protocol import EXIT_NO_OUTCOME, MANIFEST, RUNNER

pytestmark = pytest.mark.usefixtures("containers")
RAN = "the step has run"


def value_of(made, hook, handle):
    """Return the step's value as its task returns it."""
    found = to_xcom(read_outcome(hook.outcome(handle), made.spec.name, made.spec.nonce)["result"])
    return found.load() if hasattr(found, "load") else found


@pytest.fixture
def tampered(service, hook, submit, store):
    """Return a function that changes a staged file before the job reads it, and runs the job to its end."""

    def run(name, change):
        service.do("plan", job="*", hold=["Starting"])
        handle = submit(["echo", RAN])
        (path,) = [path for path in store.list("jobs") if path.endswith(f"/{name}")]
        store.put(path, change(bytes(store.read(path, store.size_of(path)))))
        service.do("release", job="*", phase="Starting")
        service.wait_for(handle.name, "Completed", "Failed")
        assert RAN not in " ".join(service.log(handle.name))
        return handle, hook.fresh_status(handle)

    return run


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [lambda data: b"print('the step has run')", lambda data: data + b"#"],
    ids=["another program", "longer"],
)
def test_a_runner_that_was_changed_does_not_run(service, hook, tampered, change):
    """The request has its SHA-256: whoever writes to the bucket cannot have a program run with the role.

    The job leaves no outcome, so the task submits again, with new input.
    """
    handle, status = tampered(RUNNER, change)
    assert service.log(handle.name) == ["stepop: step.pyz was changed after it was sent"]
    job = service.wait_for(handle.name, "Failed")
    assert job["FailureReason"] == f"AlgorithmError: , exit code: {EXIT_NO_OUTCOME}"
    assert (status.state, status.failure) == (JobState.FAILED, None)
    with pytest.raises(OutcomeLostError):
        hook.outcome(handle)


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [lambda data: data.replace(b'"echo"', b'"/bin/echo"'), lambda data: b""],
    ids=["another command", "empty"],
)
def test_a_manifest_that_was_changed_does_not_run(hook, tampered, change):
    handle, status = tampered(MANIFEST, change)
    assert status.state is JobState.FAILED
    report = hook.outcome(handle)
    assert report.digest, "the runner says so with a receipt"
    failure = json.loads(report.data)["failure"]
    assert "manifest" in failure["summary"]
    assert failure["category"] == "infra"


@pytest.mark.parametrize("layout", ["tar", "mixed"])
def test_results_in_each_layout(service, hook, step, store, layout):
    """What the real service makes of ``CompressionType: NONE`` is not certain.

    ``tar``: both folders come as an archive. ``mixed``: only ``/opt/ml/output/data`` does.
    """
    service.do("settings", layout=layout)
    made = step(lambda: {"pattern": re.compile("a"), "data": b"x" * 300_000})
    handle = hook.submit(made.spec, made.payload)
    service.wait_for(handle.name, "Completed", "Failed")
    names = {path.rpartition("/output/")[2] for path in store.list("results")}
    assert ("model.tar.gz" in names) == (layout == "tar"), names
    assert value_of(made, hook, handle) == {"pattern": re.compile("a"), "data": b"x" * 300_000}


def test_the_files_of_a_step_in_a_mixed_layout(service, hook, step, store):
    """The result lies in ``/opt/ml/model``, and the step's own data come as ``output.tar.gz`` beside it."""
    service.do("settings", layout="mixed")
    script = "echo 1 > /opt/ml/output/data/notes; echo 2 > /opt/ml/model/weights; echo 3 > out"
    made = step(CommandCall(argv=["sh", "-c", script], inputs={}, outputs=["out"]))
    handle = hook.submit(made.spec, made.payload)
    service.wait_for(handle.name, "Completed", "Failed")
    report = hook.outcome(handle)
    assert report.usage["model_uri"] == f"{made.spec.result_uri}/output/model"
    names = {path.rpartition("/output/")[2] for path in store.list("results")}
    assert names == {"output.tar.gz", "model/weights", "model/stepop/outcome.json"}
    assert value_of(made, hook, handle)["out"].load() == b"3\n"


def test_a_failure_in_an_archive(service, hook, submit):
    service.do("settings", layout="tar")
    handle = submit(["sh", "-c", "exit 3"])
    service.wait_for(handle.name, "Failed")
    report = hook.outcome(handle)
    assert report.digest == hashlib.sha256(report.data).hexdigest()
    assert json.loads(report.data)["failure"]["exit_code"] == 3


def test_a_large_part_is_read_from_its_channel(service, hook, step, store):
    """The step has no network: the service copies the argument out of the same bucket."""
    call = FunctionCall(function=len, args=(b"x" * 300_000,), kwargs={}, reference=None)
    made = step(call, settings={"enable_network_isolation": True})
    payload = spill(made.payload, lambda: store, 1000)
    assert any(part.ranges for part in payload.parts.values())
    handle = hook.submit(made.spec, payload)
    service.wait_for(handle.name, "Completed", "Failed")
    assert value_of(made, hook, handle) == 300_000, service.log(handle.name)
