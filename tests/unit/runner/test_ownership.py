"""A folder is used only if no other user can change what lies in it."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from airflow_stepop.runner.ownership import NotPrivateError, remarks, take_folder

OTHER = 12345  # a user id that nobody has
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder to another user")


def test_it_is_made_for_this_user_only(tmp_path):
    for _ in range(2):
        take_folder(str(tmp_path / "a" / "b"), is_strict=True)
    assert stat.S_IMODE(os.stat(tmp_path / "a" / "b").st_mode) == 0o700
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_it_is_no_link_and_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "file").touch()
    for name in ("link", "dangling", "file"):
        with pytest.raises(NotPrivateError, match=f"{name} is a link, or no folder"):
            take_folder(str(tmp_path / name))
    (tmp_path / "link" / "inner").mkdir()
    take_folder(str(tmp_path / "link" / "inner"))  # an administrator may put a link above it


def test_all_users_may_write_to_it(tmp_path):
    for mode in (0o777, 0o1777):
        (tmp_path / f"{mode:o}").mkdir()
        (tmp_path / f"{mode:o}").chmod(mode)
        with pytest.raises(NotPrivateError, match="all users may write to"):
            take_folder(str(tmp_path / f"{mode:o}"))


def test_all_users_may_replace_it(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(NotPrivateError, match="is open to all and has no sticky bit"):
        take_folder(str(tmp_path / "open" / "folder"))
    (tmp_path / "open").chmod(0o1777)
    take_folder(str(tmp_path / "open" / "folder"))


@is_root
def test_another_user_has_planted_it(tmp_path):
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "folder").mkdir(mode=0o755)
    os.chown(tmp_path / "sticky" / "folder", OTHER, OTHER)
    with pytest.raises(NotPrivateError, match=f"belongs to the user {OTHER}, and this process writes as 0"):
        take_folder(str(tmp_path / "sticky" / "folder"))


@is_root
def test_a_parent_of_another_user_is_a_remark_or_an_error(tmp_path):
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", OTHER, OTHER)
    take_folder(str(tmp_path / "home" / "folder"))
    assert list(remarks(str(tmp_path / "home" / "folder"))) == [
        f"the user {OTHER} may replace {tmp_path}/home/folder: its parent belongs to that user"
    ]
    with pytest.raises(NotPrivateError, match=f"the user {OTHER} may replace"):
        take_folder(str(tmp_path / "home" / "folder"), is_strict=True)


@pytest.fixture
def public():
    """Return a folder that other users may enter; those of pytest they may not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def as_user(code: str, uid: int, gid: int, *groups: int) -> int:
    """Run code in a child process with other ids; return the exit code."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            exec(code, {"take_folder": take_folder})
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@is_root
@pytest.mark.parametrize("mode", [0o2770, 0o2775, 0o770])
def test_a_volume_with_a_group(public, mode):
    """Kubernetes gives the root of a volume to root and the group ``fsGroup``, with the setgid bit."""
    volume = public / "volume"
    volume.mkdir()
    os.chown(volume, 0, 2000)
    volume.chmod(mode)
    for name in ("", "/inner"):
        assert as_user(f"take_folder({str(volume) + name!r}, True)", 1000, 1000, 2000) == 0
    assert os.stat(volume / "inner").st_uid == 1000
    (remark, *_) = remarks(str(volume))
    assert f"has the mode {mode:04o}: other users may write to it" in remark


SQUASHED = 65534  # what an NFS server makes of root: exports(5), root_squash


@is_root
def test_a_server_that_gives_files_another_owner(public):
    """NFS with root_squash: root writes, and its files belong to nobody. Another user's folder is refused."""
    (public / "export").mkdir()
    os.chown(public / "export", SQUASHED, SQUASHED)
    (public / "export" / "planted").mkdir()
    os.chown(public / "export" / "planted", OTHER, SQUASHED)
    (public / "export" / "planted").chmod(0o775)
    squash = "import ctypes, os; libc = ctypes.CDLL(None); libc.setfsgid(65534); libc.setfsuid(65534); "
    take = "assert os.geteuid() == 0; [take_folder({!r}, True) for _ in range(2)]"
    for name, code in (("mine", 0), ("mine/inner", 0), ("planted", 1)):
        assert as_user(squash + take.format(f"{public}/export/{name}"), 0, 0) == code
    assert os.stat(public / "export" / "mine").st_uid == SQUASHED


@is_root
def test_the_root_of_a_volume(tmp_path):
    """A container often gets a volume whose root is open to all, such as an emptyDir of Kubernetes."""
    volume = tmp_path / "volume"
    volume.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "mode=0777", "tmpfs", str(volume)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        take_folder(str(volume / "inner"), is_strict=True)
        take_folder(str(volume), is_strict=True)
        (volume / "open").mkdir()
        (volume / "open").chmod(0o777)
        with pytest.raises(NotPrivateError):
            take_folder(str(volume / "open" / "inner"))
    finally:
        subprocess.run(["umount", "-l", str(volume)], check=True)


@is_root
def test_root_owns_it(public):
    """An administrator has made the folder, and lets a group write to it."""
    folder = public / "cache"
    folder.mkdir()
    os.chown(folder, 0, 2000)
    folder.chmod(0o775)
    assert as_user(f"take_folder({str(folder)!r}, True)", 1000, 2000) == 0


def test_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Not a directory") as caught:
        take_folder(str(tmp_path / "file" / "folder"))
    assert not isinstance(caught.value, NotPrivateError)
