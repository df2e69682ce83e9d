"""The folders of jobs and of GPU locks are used only if no other user may change them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.folder import JobFolder
from airflow_stepop.hooks.local.host import check_lock_folder, own_folder
from airflow_stepop.hooks.local.supervisor import gpus
from airflow_stepop.runner.ownership import NotPrivateError
from tests.support.local_jobs import Bench

OTHER = 12345  # a user id that nobody has

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")


def planted(tmp_path: Path, how: str) -> Path:
    """Return a folder that another user may change."""
    folder = tmp_path / "above" / "jobs"
    folder.mkdir(parents=True, mode=0o700)
    if how == "below a folder of another user":
        os.chown(folder.parent, OTHER, OTHER)
    elif how == "below a folder that is open to all":
        folder.parent.chmod(0o777)
    elif how == "of another user":
        folder.parent.chmod(0o1777)
        os.chown(folder, OTHER, OTHER)
    elif how == "a link":
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
    return folder


HOW = [
    "below a folder of another user",
    "below a folder that is open to all",
    "of another user",
    "a link",
]


@pytest.mark.parametrize("how", HOW)
def test_jobs_are_not_kept_where_others_may_change_them(tmp_path: Path, how: str) -> None:
    """A submit is refused, and ``check`` says so and what to do."""
    folder = planted(tmp_path, how)
    with pytest.raises(StepConfigError, match="jobs are not kept in") as caught:
        own_folder(folder)
    assert "set [stepop] local_folder to a folder of this user" in str(caught.value)
    (finding,) = [one for one in LocalStepHook(folder=folder).check() if one.subject == "folder"]
    assert not finding.is_ok
    assert str(folder) in finding.message
    assert "set [stepop] local_folder to a folder of this user" in finding.fix


def test_check_names_a_folder_that_a_group_may_change(tmp_path: Path) -> None:
    """That is no error: an administrator has decided it."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    folder.chmod(0o2775)
    own_folder(folder)
    findings = [one for one in LocalStepHook(folder=folder).check() if one.subject in ("folder", "access")]
    assert all(one.is_ok for one in findings)
    assert f"{folder} has the mode 2775: other users may write to it" in [one.message for one in findings]


@pytest.mark.parametrize("how", HOW)
def test_gpus_are_not_locked_where_others_may_change_the_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    folder = planted(tmp_path, how)
    monkeypatch.setattr(gpus, "LOCK_FOLDER", str(folder))
    locks = gpus.GpuLocks({"count": 1, "devices": [["0", "0", "T4"]]}, "nonce", pytest.fail)
    with pytest.raises(NotPrivateError, match=str(folder)):
        locks.take()
    (finding,) = check_lock_folder(str(folder))
    assert not finding.is_ok
    assert "steps with GPUs cannot start" in finding.message
    assert f"remove {folder}" in finding.fix


def test_links_among_the_jobs_are_left_alone(tmp_path: Path) -> None:
    """Neither a link that looks like a job, nor one in place of the folder for deletions, leads anywhere."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "precious").mkdir(parents=True)
    os.utime(elsewhere / "precious", (0, 0))
    jobs = tmp_path / "jobs"
    (jobs / "s-real").mkdir(parents=True)
    (jobs / "s-link").symlink_to(elsewhere)
    (jobs / ".new").symlink_to(elsewhere)
    assert [job.name for job in JobFolder.all(jobs)] == ["s-real"]
    with pytest.raises(NotPrivateError, match="is a link"):
        JobFolder(jobs / "s-other").create({"nonce": "n"}, {})
    with pytest.raises(NotPrivateError, match="is a link"):
        JobFolder(jobs / "s-real").remove()
    assert (elsewhere / "precious").exists()
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


@pytest.mark.parametrize("change", ["state", "state and request", "link", "nothing"])
def test_a_step_that_changes_the_state_of_its_job_has_no_other_folder_removed(
    bench: Bench, tmp_path: Path, change: str
) -> None:
    """``state.json`` names the job's temporary folder, which goes with the job: no other does."""
    handle, _ = bench.run(bench.step(["true"]))
    folder = bench.hook.folder / handle.id
    state, request = (json.loads((folder / name).read_text()) for name in ("state.json", "request.json"))
    own = f"stepop-{request['nonce'][:12]}"
    named = tmp_path / (own if change in ("link", "nothing") else "stepop-precious")
    precious = tmp_path / "elsewhere" if change == "link" else named
    precious.mkdir()
    (precious / "data").touch()
    if change == "link":
        named.symlink_to(precious)
    (folder / "state.json").write_text(json.dumps({**state, "tmp": str(named)}))
    if change == "state and request":
        (folder / "request.json").write_text(json.dumps({**request, "nonce": "precious"}))
    bench.hook.delete(handle)
    assert not folder.exists()
    assert (precious / "data").exists() is (change != "nothing")
