"""Output folders that the service commits when it is told to: the runner does so before its receipt."""

from __future__ import annotations

import os

import pytest

from airflow_stepop.runner import protocol

LARGE = "def f():\n return b'x' * 200_000\n"
# Notes what is there when the folder is committed
NOTE = '#!/bin/sh\n[ "$1" = "{mount}" ] && ls "$1/out" "$1/guard" "$1" > "{note}" 2>&1\nexit {code}\n'


@pytest.fixture
def note(tmp_path):
    return tmp_path / "note"


@pytest.fixture
def env(tmp_path, folder, note):
    """An image with a program ``sync`` that writes to ``note``."""
    return with_program(tmp_path, folder, note, code=0)


def with_program(tmp_path, folder, note, code):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "sync"
    program.write_text(NOTE.format(mount=folder.path, note=note, code=code))
    program.chmod(0o755)
    own = {protocol.ENV_NONCE: "n0nce", protocol.ENV_JOB: "stepop-job"}
    return {**os.environ, **own, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def test_the_outcome_is_committed_before_the_receipt(folder, env, note, any_python):
    done = folder.reference(LARGE, "f").run(any_python, env=env, mounted="1", sync=str(folder.path))
    assert done.value() == b"x" * 200_000
    seen = note.read_text()
    assert protocol.OUTCOME in seen
    assert "stepop-job.0.bin" in seen
    assert "receipt" not in seen
    assert done.receipt is not None


def test_a_refused_step_commits_why(folder, env, note):
    done = folder.reference(LARGE, "f").run(env=env, sync=str(folder.path), digest="0" * 64)
    assert done.code == protocol.EXIT_REFUSED
    assert protocol.OUTCOME in note.read_text()


def test_the_marker_is_committed_before_the_step_runs(folder, env, note):
    options = {"sync": str(folder.path), "started": str(folder.path / "guard"), "job_id": "sb-1"}
    folder.command("sh", "-c", f'grep {protocol.STARTED} "{note}"')
    done = folder.run(env=env, **options)
    assert done.code == protocol.EXIT_OK, done.stderr


@pytest.mark.parametrize("has_program", [True, False])
def test_without_a_program_the_folder_is_committed_by_itself(folder, tmp_path, note, has_program):
    """An image may have no such program, or one that takes no folder."""
    env = with_program(tmp_path, folder, note, code=1)
    if not has_program:
        env["PATH"] = str(tmp_path / "empty")
    done = folder.reference(LARGE, "f").run(env=env, mounted="1", sync=str(folder.path))
    assert done.value() == b"x" * 200_000
    assert "may come late" not in done.stderr


def test_a_folder_that_cannot_be_committed_costs_no_result(folder, tmp_path, note):
    env = {**os.environ, "PATH": str(tmp_path / "empty")}
    done = folder.reference(LARGE, "f").run(env=env, mounted="1", sync=str(tmp_path / "gone"))
    assert done.value() == b"x" * 200_000
    assert done.receipt is not None
    assert "the results may come late" in done.stderr
