"""The start-once guard: jobs of one submit race for it, are killed at each point, and start again."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time

import pytest

from airflow_stepop.runner import once, protocol
from airflow_stepop.stores.configured import open_store
from tests.support.processes import started
from tests.support.waiting import PATIENCE_S, wait_until

NONCE = "n0nce"
ENV = {**os.environ, protocol.ENV_NONCE: NONCE, protocol.ENV_JOB: "stepop-job"}
COUNT = 'echo "$STEPOP_ATTEMPT" >> '


@pytest.fixture
def guard(tmp_path):
    return tmp_path / "guard"


@pytest.fixture
def step(folder, guard):
    """Return a step that notes each of its runs, with the number of the attempt."""
    folder.ran = folder.path / "ran"
    folder.command("sh", "-c", f"{COUNT}{folder.ran}")
    return folder


def run(folder, guard, job, python=None, **options):
    words = {"started": str(guard), "job_id": job, **options}
    return folder.run(*([python] if python else []), env=ENV, **words)


def runs(folder):
    return folder.ran.read_text().split() if folder.ran.exists() else []


def forget_receipt(folder):
    (folder.path / "receipt").unlink(missing_ok=True)


def test_the_first_job_runs(step, guard, any_python):
    done = run(step, guard, "job-1", any_python, runner_digest=step.runner_digest())
    assert done.code == protocol.EXIT_OK, done.stderr
    assert done.receipt is not None
    assert runs(step) == ["1"]
    marker = json.loads((guard / protocol.STARTED).read_bytes())
    assert (marker["job"], marker["nonce"], marker["attempt"]) == ("job-1", NONCE, 1)


def test_another_job_is_a_duplicate(step, guard, any_python):
    """It neither runs nor touches what the first job has written, and says which job to look at."""
    run(step, guard, "job-1")
    forget_receipt(step)
    outcome = step.path / "out" / protocol.OUTCOME
    before = outcome.stat()
    done = run(step, guard, "job-2", any_python, failure=str(step.path / "failure"))
    assert done.code == protocol.EXIT_DUPLICATE
    text = "The job job-1 runs this step. This job, job-2, is a duplicate: it ran nothing"
    assert done.stderr == f"stepop: {text}\n"
    assert (step.path / "failure").read_text() == f"infra: {text}"
    assert done.receipt is None
    assert outcome.stat() == before
    assert runs(step) == ["1"]


@pytest.mark.parametrize(("command", "code"), [("true", 0), ("exit 3", 1)])
def test_an_attempt_after_the_end(step, guard, command, code, any_python):
    """The service starts a job again that has ended: its exit code, and no receipt for the other's bytes."""
    step.command("sh", "-c", f"{COUNT}{step.ran}; {command}")
    assert run(step, guard, "job-1").code == code
    forget_receipt(step)
    done = run(step, guard, "job-1", any_python)
    assert done.code == code
    assert done.receipt is None
    assert "an earlier attempt of this job has ended with" in done.stderr
    assert runs(step) == ["1"]


def test_killed_after_the_guard_the_same_job_runs_again(step, guard, edge_python):
    """Between the guard and the outcome. Each start is counted, and a duplicate stays out."""
    step.command("sh", "-c", f"{COUNT}{step.ran}; exec sleep 600")
    for attempt in ("1", "2", "3"):
        argv = step.argv(edge_python, started=str(guard), job_id="job-1")
        with started(argv, env=ENV, stderr=subprocess.DEVNULL):  # killed with SIGKILL on exit
            wait_until(lambda attempt=attempt: runs(step)[-1:] == [attempt], "the attempt runs")
        assert run(step, guard, "job-2").code == protocol.EXIT_DUPLICATE
    step.command("sh", "-c", f"{COUNT}{step.ran}")
    done = run(step, guard, "job-1", edge_python)
    assert done.code == protocol.EXIT_OK
    assert "stepop: this is attempt 4 of the job job-1" in done.stderr
    assert runs(step) == ["1", "2", "3", "4"]


def test_killed_between_the_outcome_and_the_receipt(step, guard, edge_python):
    """The receipt is a pipe that nobody reads, where the runner waits until it is killed."""
    receipt = step.path / "pipe"
    os.mkfifo(receipt)
    outcome = step.path / "out" / protocol.OUTCOME
    argv = step.argv(edge_python, started=str(guard), job_id="job-1", receipt=str(receipt))
    with started(argv, env=ENV):
        wait_until(outcome.exists, "the outcome")
    before = outcome.read_bytes(), outcome.stat().st_ino
    done = run(step, guard, "job-1", edge_python)
    assert done.code == protocol.EXIT_OK
    assert done.receipt is None
    assert (outcome.read_bytes(), outcome.stat().st_ino) == before
    assert runs(step) == ["1"]


def test_a_stopped_attempt_is_no_end(step, guard):
    """A service stops a job with SIGTERM when it takes the machine, and starts it again elsewhere."""
    step.command("sh", "-c", f"{COUNT}{step.ran}; echo on; exec sleep 600")
    argv = step.argv(started=str(guard), job_id="job-1")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with started(argv, env=ENV, **pipes) as process:
        assert process.stdout.readline() == "on\n"
        process.terminate()
        process.wait(PATIENCE_S)
    assert step.finished(process.returncode).failure["category"] == "cancelled"
    step.command("sh", "-c", f"{COUNT}{step.ran}")
    assert run(step, guard, "job-1").code == protocol.EXIT_OK
    assert runs(step) == ["1", "2"]


def test_a_service_without_restarts(step, guard, any_python):
    """A backend whose jobs must not begin again: nothing runs, and there is no receipt."""
    run(step, guard, "job-1")
    (step.path / "out" / protocol.OUTCOME).unlink()
    forget_receipt(step)
    done = run(step, guard, "job-1", any_python, restarts="0", failure=str(step.path / "failure"))
    assert done.code == protocol.EXIT_REFUSED
    assert done.receipt is None
    assert (step.path / "failure").read_text().startswith("infra: The service started the job job-1 again")
    assert runs(step) == ["1"]


def test_of_many_jobs_one_runs(step, guard):
    argvs = [
        step.argv(started=str(guard), job_id=f"job-{n}", receipt=str(step.path / f"r{n}")) for n in range(8)
    ]
    jobs = [subprocess.Popen(argv, env=ENV, stderr=subprocess.DEVNULL) for argv in argvs]
    codes = [job.wait(PATIENCE_S) for job in jobs]
    assert sorted(codes) == [0, *[protocol.EXIT_DUPLICATE] * 7]
    assert runs(step) == ["1"]
    assert json.loads((guard / protocol.STARTED).read_bytes())["job"] == f"job-{codes.index(0)}"
    assert [path.name for path in step.path.glob("r[0-9]")] == [f"r{codes.index(0)}"]


def test_the_id_comes_from_the_environment(step, guard, monkeypatch):
    """A service that makes the id itself tells it to the job in a variable."""
    monkeypatch.setitem(ENV, "AZUREML_RUN_ID", "theirs")
    assert run(step, guard, "env:AZUREML_RUN_ID").code == protocol.EXIT_OK
    assert json.loads((guard / protocol.STARTED).read_bytes())["job"] == "theirs"


def assert_infra(done, step, *words):
    """Nothing ran, and the receipt has an ``infra`` failure without an ``outcome.json``."""
    assert done.code == protocol.EXIT_REFUSED, done.stderr
    assert runs(step) == []
    assert not (step.path / "out" / protocol.OUTCOME).exists()
    failure = json.loads(base64.b64decode(done.receipt["outcome"]))["failure"]
    assert failure["category"] == "infra"
    for word in words:
        assert word in failure["summary"]


def test_no_id_and_no_nonce(step, guard):
    assert_infra(run(step, guard, "env:NOT_SET"), step, "--job-id env:NOT_SET is empty")
    forget_receipt(step)
    done = step.run(started=str(guard), job_id="job-1", env={"PATH": os.environ["PATH"]})
    assert_infra(done, step, "STEPOP_NONCE")
    assert not guard.exists()


def test_a_guard_that_cannot_be_asked(step, guard, any_python):
    guard.write_text("a file, and no folder")
    failure = step.path / "failure"
    done = run(step, guard, "job-1", any_python, failure=str(failure))
    assert_infra(done, step, "the start-once guard cannot be asked", str(guard))
    assert failure.read_text() == f"infra: {done.failure['summary']}"


def test_a_guard_that_cannot_be_asked_costs_no_result(step, guard):
    """The service starts a job again that has ended, and the guard is away."""
    run(step, guard, "job-1")
    forget_receipt(step)
    for path in guard.iterdir():
        path.unlink()
    guard.rmdir()
    guard.write_text("")
    done = run(step, guard, "job-1")
    assert (done.code, done.receipt) == (protocol.EXIT_OK, None)


@pytest.mark.parametrize("marker", [b"", b'{"job": "jo', b"[]", b'{"job": 1, "run": "x", "attempt": 1}'])
def test_a_torn_marker(guard, marker, monkeypatch):
    """A job that was killed while it wrote the marker: nobody knows which one, so nobody runs."""
    monkeypatch.setattr(once, "LIMIT_S", 0.0)
    guard.mkdir()
    (guard / protocol.STARTED).write_bytes(marker)
    with pytest.raises(ValueError, match=r"marker|JSON|Expecting|Unterminated"):
        once._claim(once._Folder(str(guard)), "job-1", NONCE)
    assert (guard / protocol.STARTED).read_bytes() == marker


def test_a_marker_that_is_being_written(guard, monkeypatch):
    """Another job has created the marker, and writes it a moment later."""
    guard.mkdir()
    (guard / protocol.STARTED).touch()
    text = json.dumps({"job": "job-2", "nonce": NONCE, "attempt": 1, "run": "x"})
    monkeypatch.setattr(once.time, "sleep", lambda _: (guard / protocol.STARTED).write_text(text))
    assert once._claim(once._Folder(str(guard)), "job-1", NONCE) == ("job-2", 1)


def test_a_marker_of_another_submit(step, guard):
    guard.mkdir()
    text = json.dumps({"job": "job-1", "nonce": "other", "attempt": 1, "run": "x"})
    with pytest.raises(ValueError, match="belongs to another submit"):
        once._marker(text.encode(), NONCE)


# -- behind pre-signed addresses


@pytest.fixture
def bucket(s3_server):
    store = open_store(s3_server.new_address())
    yield store
    store.delete_folder("")


@pytest.fixture
def table(step, bucket):
    """Put ``started.json`` into the input folder, and return what is in it."""
    until = time.time() + 600
    (put,), (get,) = (bucket.sign(verb, ["started"], until) for verb in ("PUT", "GET"))
    made = {"put": put, "get": get}
    (step.path / "in" / protocol.STARTED_TABLE).write_text(json.dumps(made))
    return made


def in_bucket(bucket):
    (found,) = bucket.objects("")
    return json.loads(bytes(bucket.read(found.path, found.size)))


@pytest.mark.usefixtures("table")
def test_a_marker_in_a_bucket(step, bucket, edge_python):
    """The whole life: the first job, a duplicate, a restart that is counted, and an attempt after the end."""
    place = protocol.STARTED_TABLE
    step.command("sh", "-c", f"{COUNT}{step.ran}; exec sleep 600")
    for attempt in ("1", "2"):
        argv = step.argv(edge_python, started=place, job_id="job-1")
        with started(argv, env=ENV, stderr=subprocess.DEVNULL):
            wait_until(lambda attempt=attempt: runs(step)[-1:] == [attempt], "the attempt runs")
        assert run(step, place, "job-2", edge_python).code == protocol.EXIT_DUPLICATE
    step.command("sh", "-c", f"{COUNT}{step.ran}")
    assert run(step, place, "job-1", edge_python).code == protocol.EXIT_OK
    forget_receipt(step)
    assert run(step, place, "job-1", edge_python).receipt is None
    assert runs(step) == ["1", "2", "3"]
    marker = in_bucket(bucket)
    assert (marker["job"], marker["attempt"]) == ("job-1", 4)


@pytest.mark.usefixtures("table")
def test_of_many_jobs_one_runs_in_a_bucket(step):
    place = protocol.STARTED_TABLE
    argvs = [step.argv(started=place, job_id=f"job-{n}", receipt=str(step.path / f"r{n}")) for n in range(5)]
    jobs = [subprocess.Popen(argv, env=ENV, stderr=subprocess.DEVNULL) for argv in argvs]
    assert sorted(job.wait(PATIENCE_S) for job in jobs) == [0, *[protocol.EXIT_DUPLICATE] * 4]
    assert runs(step) == ["1"]


def test_an_address_that_is_refused(step, table):
    """The signature is wrong. It is a secret, and is in no message."""
    secret = table["put"].partition("Signature=")[2]
    table["put"] = table["put"].replace(secret, "0" * len(secret))
    (step.path / "in" / protocol.STARTED_TABLE).write_text(json.dumps(table))
    done = run(step, protocol.STARTED_TABLE, "job-1")
    assert_infra(done, step, "the start-once guard cannot be asked: HTTP 403")
    assert table["put"].partition("?")[2] not in done.stderr


def test_addresses_that_did_not_arrive(step):
    assert_infra(run(step, protocol.STARTED_TABLE, "job-1"), step, "started.json did not arrive")


@pytest.mark.usefixtures("table")
def test_a_lost_answer_is_no_restart(step, monkeypatch, bucket):
    """The creation arrived, its answer was lost, and the second try found the marker: it is the own one."""
    table = json.loads((step.path / "in" / protocol.STARTED_TABLE).read_text())

    class Twice(once._Addresses):
        def create(self, data):
            super().create(data)
            super().create(data)

    assert once._claim(Twice(table), "job-1", NONCE) == ("job-1", 1)
    assert in_bucket(bucket)["attempt"] == 1
    assert once._claim(Twice(table), "job-1", NONCE) == ("job-1", 2)
