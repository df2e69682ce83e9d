"""The file with a job's secrets: private, there until the step has started, and gone after that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from airflow_stepop.hooks.local import LocalSettings
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.job import JobState
from tests.support.local_jobs import Bench, prepared, supervise

ECHO = ["sh", "-c", 'test "${#TOKEN}" = 6 && echo "got $TOKEN"']


def file_of(folder: JobFolder) -> Path:
    return folder.path / "in" / "secrets.json"


def test_only_its_owner_can_read_the_file(bench: Bench) -> None:
    """The umask makes no difference."""
    folder = prepared(bench, bench.step(ECHO, secrets={"TOKEN": "s3cret"}))
    assert file_of(folder).stat().st_mode & 0o777 == 0o600
    assert "s3cret" not in (folder.path / "request.json").read_text()


def test_a_submit_after_an_interrupted_one_keeps_the_file(bench: Bench) -> None:
    """The file keeps the first submit's value, even if the next submit brings another one."""
    step = bench.step(ECHO, secrets={"TOKEN": "s3cret"})
    folder = prepared(bench, step)
    handle, status = bench.run(replace(step, payload=replace(step.payload, secrets={"TOKEN": "another"})))
    assert status.state is JobState.SUCCEEDED
    assert bench.lines(handle) == ["got ***"]
    assert not file_of(folder).exists()
    assert not [path for path in folder.path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_the_file_goes_with_a_submit_that_was_taken_back(bench: Bench) -> None:
    """A lookup that finds no job leaves no file. The next submit brings its own value."""
    step = bench.step(ECHO, secrets={"TOKEN": "too long"})
    folder = prepared(bench, step)
    assert bench.hook.lookup(step.spec) is None
    assert not folder.path.exists()
    handle, status = bench.run(replace(step, payload=replace(step.payload, secrets={"TOKEN": "s3cret"})))
    assert status.state is JobState.SUCCEEDED
    assert bench.lines(handle) == ["got ***"]


@pytest.mark.parametrize("how", ["cancelled", "cancelled late", "no such interpreter"])
def test_the_file_goes_with_a_job_that_never_starts(bench: Bench, tmp_path: Path, how: str) -> None:
    """No process will read the file any more."""
    program = tmp_path / "python"
    program.write_text("#!/nonexistent\n")
    program.chmod(0o700)
    settings = LocalSettings(python=str(program)) if how.startswith("no") else None
    step = bench.step(ECHO, secrets={"TOKEN": "s3cret"}, settings=settings)
    folder = prepared(bench, step)
    handle = bench.hook._handle(folder)
    if how == "cancelled":
        bench.hook.cancel(handle)
    else:
        (folder.path / "start").touch()
        if how == "cancelled late":
            (folder.path / "cancel").touch()
        supervise(folder)
    assert bench.wait(handle).state in (JobState.CANCELLED, JobState.FAILED)
    assert not file_of(folder).exists()


def test_a_job_that_is_kept_has_no_value(bench: Bench) -> None:
    """The value is gone whether the job succeeded, failed or was killed."""
    for script in ("echo $TOKEN", "echo $TOKEN >&2; exit 3", "echo $TOKEN; kill -9 $$", "kill -9 $PPID"):
        handle, _ = bench.run(bench.step(["sh", "-c", script], secrets={"TOKEN": "s3cret"}))
        files = [path for path in (bench.folder / handle.id).rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if b"s3cret" in path.read_bytes()]
