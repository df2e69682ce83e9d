"""Results that are kept beside the marker of the start-once guard: restored whole, or not at all.

A new attempt has the folder of the guard, and empty output folders, as on a new machine of SageMaker.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_stepop.runner import kept, protocol
from tests.support.step_folder import StepFolder

NONCE, KEY = "n0nce", "ab" * 32
LARGE = 200_000
SOURCE = f"""
import os

def f(model, ran, failure=None):
    with open(ran, "a") as stream:
        stream.write(os.environ["STEPOP_ATTEMPT"] + " ")
    os.makedirs(model + "/epochs", exist_ok=True)
    for name in ("weights", "epochs/1"):
        with open(os.path.join(model, name), "w") as stream:
            stream.write(name * 10)
    if failure:
        raise ValueError(failure)
    return b"x" * {LARGE}
"""
FILES = ["epochs/1", "stepop/outcome.json", "stepop/stepop-job.0.bin", "weights"]
# Kills the process at the file number KILL_AT of a folder: before the file is there, or after it was made
KILLER = """
import builtins, os, signal

real, seen = builtins.open, 0

def watching(path, mode="r", *args, **named):
    global seen
    if "w" not in mode or not str(path).startswith(os.environ["KILL_BELOW"]):
        return real(path, mode, *args, **named)
    seen += 1
    is_last = seen == int(os.environ["KILL_AT"])
    if is_last and os.environ["KILL"] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    stream = real(path, mode, *args, **named)
    if is_last:
        stream.write(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)
    return stream

builtins.open = watching
"""


class Job:
    """A job of a service: its folder of the guard stays, and its output folders are new in each attempt."""

    def __init__(self, step: StepFolder) -> None:
        self.step, self.guard, self.model = step, step.path / "guard", step.path / "model"
        self.ran, self.env = step.path / "ran", {**os.environ, protocol.ENV_NONCE: NONCE}
        self.key, self.failure = KEY, step.path / "failure"

    def attempt(self, python=sys.executable):
        """Run the next attempt on a new machine."""
        for folder in (self.model, self.step.path / "out"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (self.step.path / "receipt", self.failure):
            path.unlink(missing_ok=True)
        done = subprocess.run(self.argv(python), env=self.env, capture_output=True, text=True)
        if self.model.is_dir():  # where the test's reader looks
            shutil.copytree(self.model / "stepop", self.step.path / "out")
        return self.step.finished(done.returncode, done.stdout, done.stderr)

    def argv(self, python=sys.executable):
        kept_folders = f"{self.model}:{self.step.path / 'data'}"
        options = {"out": str(self.model / "stepop"), "seal": self.key, "started": str(self.guard)}
        options |= {"job_id": "job-1", "mounted": "1", "failure": str(self.failure), "kept": kept_folders}
        return self.step.argv(python, **options)

    @property
    def runs(self) -> list[str]:
        return self.ran.read_text().split() if self.ran.exists() else []

    def results(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.model)): path.read_bytes()
            for path in sorted(self.model.rglob("*"))
            if path.is_file()
        }

    def kept(self) -> list[Path]:
        """Return the record, and then the files that it names."""
        return sorted(self.guard.glob("kept-*"))


@pytest.fixture
def job(folder):
    job = Job(folder)
    folder.reference(SOURCE, "f", str(job.model), str(job.ran))
    return job


def test_an_attempt_after_the_end_restores_the_results(job, any_python):
    """The same bytes, the same exit code; and no receipt, since this attempt has not written them."""
    first = job.attempt(any_python)
    assert (first.code, first.value()) == (0, b"x" * LARGE), first.stderr
    written = job.results()
    assert list(written) == FILES
    for _ in range(2):
        done = job.attempt(any_python)
        assert (done.code, done.receipt) == (0, None), done.stderr
        assert job.results() == written
        assert "stepop: an earlier attempt of this job has ended with success\n" in done.stderr
    assert job.runs == ["1"]


def test_a_failure_is_an_end(job, edge_python):
    """The service shows why the step failed, again without a receipt."""
    job.step.reference(SOURCE, "f", str(job.model), str(job.ran), "no way")
    first = job.attempt(edge_python)
    reason, written = job.failure.read_text().split("\n"), job.results()
    assert first.code == protocol.EXIT_STEP_FAILED
    done = job.attempt(edge_python)
    assert (done.code, done.receipt) == (first.code, None)
    assert job.results() == written
    assert (
        job.failure.read_text().split("\n")
        == reason[1:]
        == ["user_error: The step raised ValueError: no way"]
    )
    assert job.runs == ["1"]


def test_a_refusal_keeps_its_exit_code(job):
    job.step.reference("raise ImportError('no')\n", "f")
    job.step.set(requirements=["no such-thing"])
    assert job.attempt().code == protocol.EXIT_REFUSED
    done = job.attempt()
    assert (done.code, done.receipt) == (protocol.EXIT_REFUSED, None)
    assert "this attempt ran nothing" in done.stderr


def test_a_stopped_attempt_is_not_kept(job):
    job.step.reference("import os, signal\ndef f():\n os.kill(os.getppid(), signal.SIGTERM)\n", "f")
    assert job.attempt().failure["category"] == "cancelled"
    assert job.kept() == []


@pytest.mark.parametrize("damage", ["missing", "torn", "changed"])
def test_a_set_that_is_not_whole_is_not_used(job, damage):
    """The step runs again, whichever file did not come to the bucket in time; nothing of the set stays."""
    job.attempt()
    whole = {path: path.read_bytes() for path in job.kept()}
    assert len(whole) == 4  # of outcome.json, a segment, and two files of the step
    expected = job.results()
    for count, (path, data) in enumerate(whole.items(), start=1):
        for other, content in whole.items():
            other.write_bytes(content)
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(data[:-1] if damage == "torn" else b"~" + data[1:])
        done = job.attempt()
        assert done.code == 0, done.stderr
        assert done.receipt is not None
        assert len(job.runs) == 1 + count, f"{path} was {damage}"
        assert {**job.results(), "stepop/outcome.json": b""} == {**expected, "stepop/outcome.json": b""}
        for new in set(job.kept()) - set(whole):
            new.unlink()


def test_files_of_two_attempts_never_form_one_set(job):
    """The record of the first, whose segment is missing, and all that the second has written."""
    job.attempt()
    record, *files = job.kept()
    files[-1].unlink()
    job.attempt()
    second = job.results()
    shutil.copy(record, record.with_name("kept-0000000000000000"))
    done = job.attempt()
    assert (done.code, done.receipt) == (0, None)
    assert job.results() == second
    assert job.runs == ["1", "2"]


@pytest.mark.parametrize("forged", ["key", "nonce"])
def test_a_record_of_somebody_else(job, forged):
    """Whoever can write to the bucket has no key; and a record of another submit is not of this one."""
    key, env = ("cd" * 32, NONCE) if forged == "key" else (KEY, "other")
    job.key, job.env[protocol.ENV_NONCE] = key, env
    job.step.set(nonce=env)
    job.attempt()
    job.key, job.env[protocol.ENV_NONCE] = KEY, NONCE
    job.step.set(nonce=NONCE)
    for path in job.guard.glob("started*"):
        path.unlink()
    done = job.attempt()
    assert done.receipt is not None
    assert job.runs == ["1", "1"]


def test_a_name_outside_of_the_folders(job, tmp_path):
    """Whoever has the key, too, still writes nothing elsewhere."""
    job.attempt()
    record, first, *_ = job.kept()
    options = {"seal": KEY}
    data = kept._checked(options, record.read_bytes())
    assert b'"epochs/1"' in data
    record.write_bytes(kept._signed(options, data.replace(b'"epochs/1"', b'"../../escaped"')))
    done = job.attempt()
    assert "is not a path inside the step's folder" in done.stderr
    assert job.runs == ["1", "2"]
    assert not list(tmp_path.rglob("escaped"))
    assert first.exists()


def test_too_much_to_keep(job):
    """The record says so; another attempt says that it runs the step again, and why."""
    job.step.reference(
        SOURCE.replace(str(LARGE), str(kept.KEPT_BYTES + 1)), "f", str(job.model), str(job.ran)
    )
    first = job.attempt()
    assert first.code == 0
    assert (
        "the results are not kept for another attempt: 3 files of 64 MiB are more than 64 MiB" in first.stderr
    )
    (record,) = job.kept()
    assert record.stat().st_size < 1000
    done = job.attempt()
    assert "an earlier attempt has ended, and its results were not kept: 3 files of 64 MiB" in done.stderr
    assert job.runs == ["1", "2"]
    assert done.receipt is not None


def test_a_link_is_not_kept(job):
    """Nobody knows what the service makes of a link, so its job is not restored without it."""
    source = "import os\ndef f(model):\n os.makedirs(model)\n os.symlink('/etc/passwd', model + '/link')\n"
    job.step.reference(source, "f", str(job.model / "a"))
    done = job.attempt()
    assert done.code == 0
    assert f"not kept for another attempt: {job.model}/a/link is neither a file nor a folder" in done.stderr
    assert job.kept() == []


def test_a_folder_that_cannot_be_written_costs_nothing(job):
    """The guard's folder is gone when the step ends: the step has its result all the same."""
    source = "import os, shutil\ndef f(guard):\n shutil.rmtree(guard)\n open(guard, 'w').close()\n return 7\n"
    job.step.reference(source, "f", str(job.guard))
    done = job.attempt()
    assert (done.code, done.value()) == (0, 7)
    assert "the results are not kept for another attempt: [Errno" in done.stderr


@pytest.mark.parametrize("when", ["before", "torn"])
@pytest.mark.parametrize("where", ["kept", "restored"])
def test_killed_at_each_write(job, tmp_path, where, when):
    """While the results are kept, or while they are restored: the last attempt has all of them."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(KILLER)
    below = job.model if where == "restored" else job.guard / "kept-"
    if where == "restored":
        job.attempt()
        shutil.rmtree(job.model)
    env = {**job.env, "PYTHONPATH": str(site), "KILL": when, "KILL_BELOW": str(below)}
    for count in range(1, 6):
        if where == "kept":
            shutil.rmtree(job.model, ignore_errors=True)
        argv = job.argv()
        done = subprocess.run(argv, env={**env, "KILL_AT": str(count)}, capture_output=True, text=True)
        if count < 5:
            assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.returncode == 0, "four files are written, and each of them was the last one once"
    results = job.results()
    assert list(results) == FILES
    done = job.attempt()
    assert (done.code, done.receipt) == (0, None)
    assert job.results() == results
    assert job.runs == (["1"] if where == "restored" else ["1", "2", "3", "4", "5"])


@pytest.mark.parametrize("missing", ["seal", "started"])
def test_what_it_needs(job, missing):
    options = {"kept": str(job.model), "seal": KEY, "started": str(job.guard), "job_id": "job-1"}
    del options[missing]
    done = job.step.run(**options)
    assert done.code == protocol.EXIT_REFUSED
    assert f"missing --{missing}" in done.stderr
