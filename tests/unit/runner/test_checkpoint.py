"""The folder for checkpoints: there when the step starts, and never a step without it."""

from __future__ import annotations

import os

import pytest

from airflow_stepop.runner import protocol


def test_the_folder_is_made_and_named(folder, tmp_path, any_python):
    folder.command("sh", "-c", 'cd "$STEPOP_CHECKPOINT_DIR" && touch left && pwd').set(checkpoint=True)
    for _ in range(2):
        done = folder.run(any_python, checkpoint=str(tmp_path / "a" / "b"))
        assert done.stdout == f"{tmp_path}/a/b\n", done.stderr
    assert (tmp_path / "a" / "b" / "left").exists()


def test_a_relative_folder_does_not_move_with_the_step(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "import os\ndef f():\n    return os.environ['STEPOP_CHECKPOINT_DIR']\n"
    done = folder.reference(source, "f").set(checkpoint=True).run(checkpoint="here")
    assert done.value() == str(tmp_path / "here")


def test_a_backend_without_a_place_for_it_is_refused(folder):
    done = folder.command("echo", "must not run").set(checkpoint=True).run()
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "bad_config"
    assert "The backend has no place for the step's checkpoints" in done.failure["summary"]
    assert "must not run" not in done.stdout


def test_a_folder_that_cannot_be_made_is_refused(folder, tmp_path):
    (tmp_path / "file").touch()
    done = (
        folder.command("echo", "must not run")
        .set(checkpoint=True)
        .run(checkpoint=str(tmp_path / "file" / "x"))
    )
    assert done.code == protocol.EXIT_REFUSED
    assert "its checkpoint folder cannot be created" in done.failure["summary"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")
@pytest.mark.parametrize("how", ["another user's", "a link", "open to all", "below one that is open to all"])
def test_a_folder_that_others_may_change_is_refused(folder, tmp_path, how):
    """A step unpickles its checkpoint, so a planted one would run code."""
    place = tmp_path / "store" / "checkpoint"
    place.mkdir(parents=True, mode=0o700)
    if how == "another user's":
        os.chown(place, 12345, 12345)
    elif how == "a link":
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    else:
        (place if how == "open to all" else place.parent).chmod(0o777)
    done = folder.command("echo", "must not run").set(checkpoint=True).run(checkpoint=str(place))
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "bad_config"
    assert "its checkpoint folder is not used" in done.failure["summary"]
    assert str(place) in done.failure["summary"]
    assert "must not run" not in done.stdout


def test_a_step_that_wants_none_gets_none(folder, tmp_path):
    done = folder.command("sh", "-c", 'echo "<$STEPOP_CHECKPOINT_DIR>"').run(checkpoint=str(tmp_path / "x"))
    assert done.stdout == "<>\n"
    assert not (tmp_path / "x").exists()
