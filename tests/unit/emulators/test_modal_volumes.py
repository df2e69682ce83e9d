"""Volumes of the Modal emulator: files from outside, and as the sandboxes see and write them."""

from __future__ import annotations

import hashlib
import os

import pytest

from tests.support.waiting import wait_until
from tests.unit.emulators.modal_workspace import MEBIBYTE, paths, put, read


def test_upload_read_list_and_remove(workspace):
    volume = workspace.volume()
    put(volume, "/a/b/one", b"1")
    put(volume, "a/two", b"22")
    put(volume, "/empty", b"")
    assert paths(volume) == ["a", "a/b", "a/b/one", "a/two", "empty"]
    assert paths(volume, recursive=False) == ["a", "empty"]
    assert paths(volume, "/a", recursive=False) == ["a/b", "a/two"]
    assert paths(volume, "/a/two") == ["a/two"]
    assert (read(volume, "/a/b/one"), read(volume, "a/two"), read(volume, "empty")) == (b"1", b"22", b"")
    assert [(one.size, one.type.name) for one in volume.listdir("/a/two")] == [(2, "FILE")]
    volume.remove_file("/a/two")
    volume.remove_file("/a", recursive=True)
    assert paths(volume) == ["empty"]


def test_what_is_not_there(workspace):
    import modal

    volume = workspace.volume()
    put(volume, "/folder/file", b"1")
    with pytest.raises(FileNotFoundError):
        read(volume, "/nothing")
    with pytest.raises(FileNotFoundError):
        volume.remove_file("/nothing")
    with pytest.raises(modal.exception.NotFoundError):
        volume.listdir("/nothing")
    with pytest.raises(modal.exception.ConflictError, match="is a directory"):
        volume.remove_file("/folder")
    with pytest.raises(modal.exception.InvalidError):
        read(volume, "/folder")
    with pytest.raises(modal.exception.NotFoundError):
        modal.Volume.from_name("no-such-volume", client=workspace.client).hydrate()


def test_an_upload_that_must_create(workspace):
    """Without force an existing file is an error, and the batch writes nothing."""
    import io

    volume = workspace.volume()
    put(volume, "/a", b"first")
    upload = volume.batch_upload()
    batch = upload.__enter__()
    batch.put_file(io.BytesIO(b"new"), "/b")
    batch.put_file(io.BytesIO(b"second"), "/a")
    with pytest.raises(FileExistsError):
        upload.__exit__(None, None, None)
    assert (paths(volume), read(volume, "/a")) == (["a"], b"first")
    put(volume, "/a", b"second", force=True)
    assert read(volume, "/a") == b"second"


def test_blocks_and_zeros(workspace):
    """Files are blocks of 8 MiB, uploaded and read over HTTP. Zeros at the end of a block are not sent."""
    volume = workspace.volume()
    data = os.urandom(8 * MEBIBYTE) + bytes(8 * MEBIBYTE) + b"end" + bytes(100)
    put(volume, "/large", data)
    assert hashlib.sha256(read(volume, "/large")).digest() == hashlib.sha256(data).digest()
    assert (workspace.service.calls("BlockPut"), workspace.service.calls("BlockGet")) == (3, 3)
    assert workspace.service.calls("VolumePutFiles2") == 2


def test_a_volume_has_a_version_and_an_environment(workspace):
    import modal

    volume = workspace.volume().hydrate()
    assert workspace.volume().hydrate().object_id == volume.object_id
    workspace.service.do("environment", name="other")
    other = workspace.volume(environment_name="other").hydrate()
    assert other.object_id != volume.object_id
    with pytest.raises(modal.exception.NotFoundError):
        workspace.volume(environment_name="missing").hydrate()
    old = modal.Volume.from_name("old", create_if_missing=True, client=workspace.client).hydrate()
    with pytest.raises(modal.exception.InvalidError, match="version"):
        modal.Volume.from_name("old", version=2, client=workspace.client).hydrate()
    with pytest.raises(modal.exception.UnimplementedError):
        put(old, "/a", b"1")


def test_volumes_are_listed_and_deleted(workspace):
    import modal

    for name in ("one", "two"):
        workspace.volume(name).hydrate()
    assert [one.name for one in modal.Volume.objects.list(client=workspace.client)] == ["two", "one"]
    modal.Volume.objects.delete("one", client=workspace.client)
    assert [one.name for one in modal.Volume.objects.list(client=workspace.client)] == ["two"]
    with pytest.raises(modal.exception.NotFoundError):
        modal.Volume.objects.delete("one", client=workspace.client)


def test_a_sandbox_sees_a_part_of_a_volume(sandboxes):
    """A path of the Volume lies at the mount path; what the command writes is there after its end."""
    volume = sandboxes.volume()
    put(volume, "/jobs/a/in/x", b"input")
    put(volume, "/jobs/b/in/x", b"of another")
    sandbox = sandboxes.ended(
        *("sh", "-c", "cat /job/in/x; ls /job; rm /job/in/x; mkdir /job/out; printf done > /job/out/y"),
        volumes={"/job": volume.with_mount_options(sub_path="/jobs/a")},
    )
    assert (sandbox.returncode, sandbox.stdout.read()) == (0, "inputin\n")
    assert paths(volume, "/jobs/a") == ["jobs/a/in", "jobs/a/out", "jobs/a/out/y"]
    assert read(volume, "/jobs/a/out/y") == b"done"
    assert read(volume, "/jobs/b/in/x") == b"of another"


def test_a_part_that_a_volume_does_not_have_is_made(sandboxes):
    volume = sandboxes.volume()
    sandbox = sandboxes.ended(
        "ls", "-A", "/v", volumes={"/v": volume.with_mount_options(sub_path="/new/part")}
    )
    assert (sandbox.returncode, sandbox.stdout.read(), paths(volume)) == (0, "", ["new", "new/part"])


def test_a_mount_path_inside_a_folder_of_the_host(sandboxes):
    """The mount is the sandbox's alone: the host has no such folder, before and after."""
    volume, place = sandboxes.volume(), f"/usr/share/stepop-{os.getpid()}/data"
    mounted = volume.with_mount_options(sub_path="/new/folder")
    sandbox = sandboxes.ended("sh", "-c", f"echo 1 > {place}/x; ls /usr/bin/env", volumes={place: mounted})
    assert (sandbox.returncode, sandbox.stdout.read()) == (0, "/usr/bin/env\n")
    assert paths(volume) == ["new", "new/folder", "new/folder/x"]
    assert not os.path.exists(place)


def test_a_mount_that_is_read_only(sandboxes):
    volume = sandboxes.volume()
    put(volume, "/x", b"1")
    mounted = volume.with_mount_options(read_only=True)
    sandbox = sandboxes.ended("sh", "-c", "cat /v/x; echo 2 > /v/x", volumes={"/v": mounted})
    assert sandbox.returncode != 0
    assert "Read-only file system" in sandbox.stderr.read()
    assert read(volume, "/x") == b"1"


def test_one_volume_has_one_mount(workspace):
    import modal

    volume = workspace.volume()
    with pytest.raises(modal.exception.InvalidError):
        workspace.create("true", volumes={"/a": volume, "/b": volume.with_mount_options(sub_path="/x")})


def test_a_running_sandbox_commits_with_sync(sandboxes):
    """Before ``sync`` nobody outside sees its files; what it writes later comes with its end."""
    volume = sandboxes.volume()
    command = "echo 1 > /v/one; sync /v; echo 2 > /v/two; echo wrote; sleep 1000"
    sandbox = sandboxes.create("sh", "-c", command, volumes={"/v": volume})
    assert next(iter(sandbox.stdout)) == "wrote\n"
    assert paths(volume) == ["one"]
    sandboxes.service.do("end", sandbox=sandbox.object_id, status="TERMINATED")
    sandbox.wait(raise_on_termination=False)
    assert paths(volume) == ["one", "two"]


def test_a_running_sandbox_may_commit_by_itself(sandboxes):
    """With background commits a reader may also see a file that is not finished."""
    volume = sandboxes.volume()
    sandboxes.service.do("settings", background_commit_s=0.05)
    sandbox = sandboxes.create("sh", "-c", "printf half > /v/x; sleep 1000", volumes={"/v": volume})
    wait_until(lambda: paths(volume), "the file", holds=lambda found: found == ["x"])
    assert (sandbox.poll(), read(volume, "/x")) == (None, b"half")


def test_sync_of_other_paths_is_that_of_the_host(sandboxes):
    volume = sandboxes.volume()
    sandbox = sandboxes.ended("sh", "-c", "sync /tmp && sync -f / && echo fine", volumes={"/v": volume})
    assert (sandbox.returncode, sandbox.stdout.read()) == (0, "fine\n")


def test_files_that_appear_late(sandboxes):
    """The end is seen before the files are in the Volume."""
    volume = sandboxes.volume()
    sandboxes.service.do("plan", sandbox="late", hold=["commit"])
    sandbox = sandboxes.ended("sh", "-c", "echo 1 > /v/x", name="late", volumes={"/v": volume})
    assert (sandbox.poll(), paths(volume)) == (0, [])
    sandboxes.service.do("release", sandbox="late", phase="commit")
    wait_until(lambda: paths(volume), "the files", holds=lambda found: found == ["x"])
    sandboxes.service.do("settings", commit_lag_s=0.1)
    sandboxes.ended("sh", "-c", "echo 1 > /v/y", volumes={"/v": volume})
    wait_until(lambda: paths(volume), "the files", holds=lambda found: found == ["x", "y"])


@pytest.mark.parametrize(("keeps", "found"), [(True, ["one", "two"]), (False, ["one"])])
def test_a_kill_may_lose_what_was_not_synced(sandboxes, keeps, found):
    volume = sandboxes.volume()
    sandboxes.service.do("settings", commit_after_kill=keeps)
    command = "echo 1 > /v/one; sync /v; echo 2 > /v/two; echo wrote; sleep 1000"
    sandbox = sandboxes.create("sh", "-c", command, volumes={"/v": volume})
    assert next(iter(sandbox.stdout)) == "wrote\n"
    sandbox.terminate(wait=True)
    assert paths(volume) == found


def test_links_modes_and_files_that_change(sandboxes):
    """A second sandbox finds what the first left: modes, symbolic links, and a file that was appended to."""
    volume = sandboxes.volume()
    command = "echo 1 > /v/x; chmod 755 /v/x; ln -s x /v/link; "
    command += "printf '#!/bin/sh\\necho ran' > /v/run; chmod +x /v/run"
    assert sandboxes.ended("sh", "-c", command, volumes={"/v": volume}).returncode == 0
    command = "cat /v/link; stat -c %a /v/x; /v/run; echo 2 >> /v/x"
    sandbox = sandboxes.ended("sh", "-c", command, volumes={"/v": volume})
    assert sandbox.stdout.read() == "1\n755\nran\n"
    assert read(volume, "/x") == b"1\n2\n"


def test_an_answer_to_an_upload_that_is_lost(workspace):
    """The client sends it again, and meets its own files."""
    volume = workspace.volume()
    workspace.service.do("fault", kind="lost", rpc="VolumePutFiles2", after=True)
    volume.hydrate()
    with pytest.raises(FileExistsError):
        put(volume, "/empty", b"")
    assert paths(volume) == ["empty"]


def test_a_block_that_fails(workspace):
    """The client tries the upload and the download of a block again."""
    workspace.service.do("fault", kind="unavailable", rpc="BlockPut", count=1)
    volume = workspace.volume()
    put(volume, "/x", b"data")
    workspace.service.do("fault", kind="lost", rpc="BlockGet", count=1)
    assert read(volume, "/x") == b"data"
    assert workspace.service.calls("BlockPut") == workspace.service.calls("BlockGet") == 2
