"""Output folders that a service mounts: no rename, no links, and others who may write to them."""

from __future__ import annotations

import base64
import json
import os
import subprocess

import pytest

from airflow_stepop.runner import files, protocol
from airflow_stepop.runner.files import write_atomic
from airflow_stepop.runner.outcome import empty_outcome
from airflow_stepop.runner.reason import write_reason

LARGE = "def f():\n return b'x' * 200_000\n"

# A mounted bucket has no rename and no links; the runner of this Python finds neither
WITHOUT_RENAME = """
import os

def refuse(*args, **named):
    raise OSError(95, "Operation not supported")

os.rename = os.replace = os.link = os.symlink = refuse
"""


@pytest.fixture
def env(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WITHOUT_RENAME)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "site")}


def test_files_have_their_final_names_at_once(folder, env, any_python):
    done = folder.reference(LARGE, "f").run(any_python, env=env, mounted="1")
    assert done.value() == b"x" * 200_000
    assert sorted(path.name for path in done.out.iterdir()) == [protocol.OUTCOME, "stepop-job.0.bin"]
    assert done.stderr == ""


def test_without_the_option_files_are_renamed(folder, env):
    """Else this test would not show that the file system cannot rename."""
    done = folder.reference(LARGE, "f").run(env=env)
    assert "Operation not supported" in done.failure["summary"]


def test_outputs_of_a_command(folder, env, edge_python):
    folder.command("sh", "-c", "head -c 200000 /dev/zero > model", outputs=("model",))
    done = folder.run(edge_python, env=env, mounted="1")
    assert done.decode(done.outcome["outputs"]["model"]) == bytes(200_000)
    assert not list(done.out.glob("*.part-*"))


def test_the_outcome_comes_last(folder, tmp_path, env):
    """A reader that sees the outcome sees all that it names: also after the files of an earlier attempt."""
    out = folder.path / "out"
    out.mkdir()
    for name in ("stepop-job.0.bin", protocol.OUTCOME):
        (out / name).write_bytes(b"torn")
    done = folder.reference(LARGE, "f").run(env=env, mounted="1")
    assert done.value() == b"x" * 200_000
    stamps = [(out / name).stat().st_mtime_ns for name in ("stepop-job.0.bin", protocol.OUTCOME)]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize("torn", ["outcome", "segment"])
def test_torn_files_of_a_killed_attempt(folder, guard_options, torn, any_python):
    """An outcome that is cut is no outcome: the next attempt of the job runs and writes all again."""
    done = folder.reference(LARGE, "f").run(any_python, **guard_options)
    name = protocol.OUTCOME if torn == "outcome" else "stepop-job.0.bin"
    path = done.out / name
    path.write_bytes(path.read_bytes()[:100])
    if torn == "segment":
        (done.out / protocol.OUTCOME).unlink()
    again = folder.run(any_python, **guard_options)
    assert again.code == protocol.EXIT_OK
    assert again.value() == b"x" * 200_000
    assert "this is attempt 2 of the job" in again.stderr


@pytest.fixture
def guard_options(tmp_path):
    env = {**os.environ, protocol.ENV_NONCE: "n0nce"}
    return {"mounted": "1", "started": str(tmp_path / "guard"), "job_id": "job-1", "env": env}


def test_another_s_outcome_gets_no_receipt(folder, any_python):
    """Somebody who can write to the bucket replaces the outcome before the parent reads it.

    The step's own process does it here: at its exit, after the outcome was written.
    """
    forged = {**empty_outcome("stepop-job", "n0nce"), "status": "success"}
    path = folder.path / "out" / protocol.OUTCOME
    write = f"open({str(path)!r}, 'w').write({json.dumps(forged)!r})"
    folder.reference(f"def f():\n import atexit\n atexit.register(lambda: {write})\n", "f")
    done = folder.run(any_python, mounted="1")
    assert done.code == protocol.EXIT_STEP_FAILED
    assert done.failure["category"] == "infra"
    assert "its outcome.json was changed after it was written" in done.failure["summary"]


def test_a_step_that_ends_its_process(folder, edge_python):
    """There is no outcome, and what somebody puts there is not taken for one."""
    forged = {**empty_outcome("stepop-job", "n0nce"), "status": "success"}
    path = folder.path / "out" / protocol.OUTCOME
    source = f"def f():\n import os\n os.makedirs({str(path.parent)!r}, exist_ok=True)\n"
    source += f" open({str(path)!r}, 'w').write({json.dumps(forged)!r})\n os._exit(0)\n"
    done = folder.reference(source, "f").run(edge_python, mounted="1")
    assert "ended with exit code 0 before the step returned" in done.failure["summary"]


def test_a_write_that_fails_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "is_mounted", True)

    def buffers():
        yield b"first"
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomic(str(tmp_path / "a"), buffers())
    assert list(tmp_path.iterdir()) == []


# -- the failure file


def failed(folder, python=None, **options):
    """Run a step with a failure file; return what the runner left, the file's text, and its lines."""
    path = folder.path / "there" / "failure"
    done = folder.run(*([python] if python else []), failure=str(path), **options)
    text = path.read_text("utf-8") if path.exists() else None
    return done, text, (text or "").split("\n")


def test_the_receipt_comes_first(folder, any_python):
    """It is short, has no outcome in it, and the reason for people follows on the next line."""
    done, text, lines = failed(folder.reference("def f():\n raise ValueError('no\\nway')\n", "f"), any_python)
    receipt = json.loads(lines[0])
    assert receipt == {key: done.receipt[key] for key in ("protocol", "digest", "size")}
    assert len(lines[0]) <= 150
    assert lines[1:] == ["user_error: The step raised ValueError: no way"]
    assert len(text) <= 900


def test_the_exit_code_of_the_step_is_in_the_receipt_of_the_failure_file(folder):
    """The service shows the exit code of the runner."""
    done, _, lines = failed(folder.command("sh", "-c", "exit 3"))
    assert done.code == protocol.EXIT_STEP_FAILED
    assert json.loads(lines[0])["exit_code"] == 3
    assert len(lines[0]) <= 150


def test_a_long_reason_is_cut(tmp_path):
    path, receipt = tmp_path / "failure", json.dumps({"digest": "d" * 64}) + "\n"
    write_reason(str(path), {"category": "infra", "summary": "ä" * 5000}, receipt)
    text = path.read_text("utf-8")
    assert len(text) == 900
    assert text.startswith(f"{receipt}infra: ää")
    assert text.endswith("ä…")


def test_a_success_has_no_failure_file(folder):
    done, text, _ = failed(folder.command("true"))
    assert (done.code, text) == (protocol.EXIT_OK, None)


def test_a_step_that_was_refused(folder, any_python):
    folder.reference("def f(): pass\n", "f").set(protocol=99)
    done, _, lines = failed(folder, any_python)
    assert json.loads(lines[0])["digest"] == done.receipt["digest"]
    assert lines[1].startswith("bad_config: The step was not started: its manifest has protocol 99")


def test_a_killed_step(folder):
    _, _, lines = failed(folder.command("sh", "-c", "kill -9 $PPID"))
    assert lines[1].startswith("user_error: The step's process was killed by SIGKILL")


def test_secrets_are_masked(folder):
    (folder.path / "in" / protocol.SECRETS).write_text(json.dumps({"TOKEN": "v4lue-of-token"}))
    source = "def f():\n import os\n raise ValueError(os.environ['TOKEN'])\n"
    _, text, lines = failed(folder.reference(source, "f").set(secrets=["TOKEN"]))
    assert "v4lue" not in text
    assert lines[1] == "user_error: The step raised ValueError: ***"


def test_an_outcome_that_could_not_be_written(folder):
    """There is no ``outcome.json`` for the receipt to be about: the log has the receipt with the outcome."""
    (folder.path / "out").write_text("a file, and no folder")
    path = folder.path / "failure"
    folder.reference("def f(): return 1\n", "f")
    done = subprocess.run(folder.argv(failure=str(path)), capture_output=True, text=True)
    assert done.returncode == protocol.EXIT_NO_OUTCOME
    assert path.read_text().startswith("infra: The step ran, but its outcome could not be written")
    receipt = json.loads((folder.path / "receipt").read_text())
    assert json.loads(base64.b64decode(receipt["outcome"]))["status"] == "failure"


def test_a_failure_file_that_cannot_be_written_costs_nothing(folder):
    done = folder.command("false").run(failure="/proc/nowhere/failure")
    assert done.failure["category"] == "user_error"
    assert done.receipt is not None
    assert "the failure file cannot be written" in done.stderr
