"""Checkpoints that are kept at pre-signed addresses, with every Python that runs steps and a real server."""

from __future__ import annotations

import gzip
import hmac
import io
import json
import os
import signal
import stat
import subprocess
import tarfile
import time

import pytest

from airflow_stepop.hooks.common.zipapp import runner_zipapp
from airflow_stepop.runner import protocol
from airflow_stepop.runner.archive import ForgedError, TooLargeError, fingerprint, pack, unpack, verify
from airflow_stepop.stores.configured import open_store
from tests.support.processes import printed, started
from tests.support.waiting import wait_until

KEY = b"k" * 32

# A training loop: it says where it began, saves every epoch, and does what it is told at the end
TRAIN = r"""
import json, os, signal, sys, time
from pathlib import Path
saved = Path(os.environ["STEPOP_CHECKPOINT_DIR"]) / "state.json"
epoch = json.loads(saved.read_text()) if saved.exists() else 0
print("begun at", epoch, flush=True)
while epoch < int(sys.argv[1]):
    time.sleep(float(sys.argv[2]))
    epoch += 1
    draft = saved.with_suffix(".new")
    draft.write_text(json.dumps(epoch))
    draft.replace(saved)
print("reached", epoch, flush=True)
if sys.argv[3] == "wait":
    time.sleep(600)
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture
def bucket(s3_server):
    store = open_store(s3_server.new_address())
    yield store
    store.delete_folder("")


@pytest.fixture
def steps(new_folder, bucket):
    """Return a maker of steps that keep their checkpoint in the bucket, each under its own name."""
    made: list[str] = []

    def make(*words: str, most_bytes: int = 5 << 30, key: bytes = KEY, earlier_keys: tuple[bytes, ...] = ()):
        names = [f"c/{len(made)}.tar", *made[-1:]]
        made.insert(len(made), names[0])
        until = time.time() + 600
        urls = bucket.sign("GET", names, until)
        table = {
            "get": [{"url": url, "uri": bucket.uri(name)} for url, name in zip(urls, names, strict=True)],
            "put": bucket.sign("PUT", names[:1], until)[0],
            "headers": {},
            "key": key.hex(),
            "most_bytes": most_bytes,
            **({"earlier_keys": [one.hex() for one in earlier_keys]} if earlier_keys else {}),
        }
        folder = new_folder().set(checkpoint=True).command(*words)
        path = folder.path / "in" / protocol.CHECKPOINT
        path.write_bytes(gzip.compress(json.dumps(table).encode()))
        return folder

    return make


def shell(text: str) -> tuple[str, ...]:
    return "sh", "-c", f'cd "$STEPOP_CHECKPOINT_DIR" && {text}'


def train(python: str, epochs: int, pause_s: float, end: str) -> tuple[str, ...]:
    return python, "-c", TRAIN, str(epochs), str(pause_s), end


def test_there_and_back(steps, bucket, any_python, tmp_path):
    """Everything that a folder may hold, after a failure; a link that leads out is told about."""
    script = "mkdir -p a/b empty && echo 1 > a/b/one && chmod 750 a/b/one && ln -s b/one a/in"
    script += " && ln -s $PWD/a/b absolute && ln -s /etc/passwd out && touch 'ä name' && mkfifo pipe; exit 3"
    first = steps(*shell(script))
    done = first.run(any_python, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.failure["exit_code"] == 3
    assert "checkpoint saved for the next try" in done.stderr
    assert "left out of the checkpoint: out is neither a file nor a link" in done.stderr
    assert "left out of the checkpoint: pipe is neither a file nor a link" in done.stderr
    assert not (first.path / "in" / protocol.CHECKPOINT).exists()
    look = "find . | LC_ALL=C sort && cat a/in absolute/one && stat -c %a a/b/one && readlink absolute"
    done = steps(*shell(look)).run(any_python, env={**os.environ, "TMPDIR": str(tmp_path)})
    names = [".", "./a", "./a/b", "./a/b/one", "./a/in", "./absolute", "./empty", "./ä name"]
    assert done.stdout.split("\n") == [*names, "1", "1", "750", "a/b", ""], done.stderr
    assert "checkpoint restored: 2 files" in done.stderr
    assert list(tmp_path.glob("stepop-*")) == [], "nothing is left on the disk"
    assert [found.path for found in bucket.objects("c")] == ["c/0.tar"], "success saves nothing"


def test_killed_hard_it_goes_on_at_the_last_snapshot(steps, bucket, edge_python):
    folder = steps(*train(edge_python, 1000, 0.3, "0"))
    with started(folder.argv(edge_python), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL):
        wait_until(lambda: list(bucket.objects("c")), "a snapshot in the bucket", pause_s=0.05)
    done = steps(*train(edge_python, 0, 0, "0")).run(edge_python)
    begun_at = int(done.stdout.split()[2])
    assert 0 < begun_at < 1000, done.stderr


def test_told_to_stop_it_saves_the_last_state(steps, edge_python):
    """The grace period is for the step and, behind it, for the snapshot of all that it has done."""
    folder = steps(*train(edge_python, 5, 0, "wait"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with started(folder.argv(edge_python), **pipes) as process:
        assert process.stdout.readline() == "begun at 0\n"
        assert process.stdout.readline() == "reached 5\n"
        process.send_signal(signal.SIGTERM)
        out, err = printed(process)
    assert "checkpoint saved for the next try" in err
    assert folder.finished(process.returncode, out, err).failure["category"] == "cancelled"
    done = steps(*train(edge_python, 0, 0, "0")).run(edge_python)
    assert done.stdout.startswith("begun at 5\n"), done.stderr


def test_a_job_that_is_started_twice_finds_its_own(steps, bucket):
    first = steps(*shell("echo 1 >> log; exit 3"))
    kept = (first.path / "in" / protocol.CHECKPOINT).read_bytes()
    for count in (1, 2):
        (first.path / "in" / protocol.CHECKPOINT).write_bytes(kept)
        first.run()
        data = bucket.read("c/0.tar", next(bucket.objects("c")).size)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            assert archive.extractfile("log").read() == b"1\n" * count


@pytest.mark.parametrize("how", ["changed", "another key", "cut", "empty"])
def test_a_snapshot_that_is_not_ours_is_refused(steps, bucket, how):
    steps(*shell("echo precious > state; exit 3")).run()
    size = next(bucket.objects("c")).size
    data = bytes(bucket.read("c/0.tar", size))
    changed = {"changed": data.replace(b"precious", b"poisoned"), "cut": data[:-700], "empty": b""}
    if how in changed:
        bucket.delete_folder("c")
        bucket.put_new("c/0.tar", changed[how])
    done = steps(*shell("cat state"), key=b"x" * 32 if how == "another key" else KEY).run()
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "infra"
    assert f"its checkpoint {bucket.uri('c/0.tar')} was refused" in done.failure["summary"]
    assert "delete the object" in done.failure["hint"]
    assert "poisoned" not in done.stdout
    assert len(list(bucket.objects("c"))) == 1, "a step that was not started saves nothing"


def test_a_snapshot_above_the_limit_is_not_downloaded(steps, bucket):
    """Whoever may write to the bucket could fill the disk before the signature is looked at."""
    steps(*shell("echo mine > state; exit 3")).run()
    bucket.put("c/0.tar", bytes(40 << 20))
    done = steps(*shell("cat state"), most_bytes=1 << 20).run(env={**os.environ, "STEPOP_DEBUG": "1"})
    assert done.code == protocol.EXIT_REFUSED
    assert done.failure["category"] == "infra"
    assert f"its checkpoint {bucket.uri('c/0.tar')} was refused" in done.failure["summary"]
    assert "it has 40 MiB, and this task saves at most 1 MiB" in done.failure["summary"]
    assert "delete the object" in done.failure["hint"]


def test_a_snapshot_of_a_replaced_key_is_read_and_the_new_key_signs(steps, bucket):
    steps(*shell("echo one >> state; exit 3")).run()
    new = b"n" * 32
    done = steps(*shell("echo two >> state; exit 3"), key=new, earlier_keys=(b"x" * 32, KEY)).run()
    assert done.failure["exit_code"] == 3
    done = steps(*shell("cat state"), key=new).run()
    assert "one\ntwo" in done.stdout


def test_one_that_is_too_large_is_told_and_the_step_goes_on(steps, bucket):
    steps(*shell("echo small > state; exit 3")).run()
    script = "test -e state && dd if=/dev/zero of=big bs=1M count=2 2>/dev/null && sleep 4 && exit 3"
    done = steps(*shell(script), most_bytes=1 << 20).run()
    assert done.failure["exit_code"] == 3
    told = "could not be saved, and the last saved one stays: it has more than the 1 MiB"
    assert done.stderr.count(told) == 1
    assert [found.path for found in bucket.objects("c")] == ["c/0.tar"]


def test_what_has_not_changed_is_not_saved_again(steps, bucket):
    steps(*shell("echo 1 > state; exit 3")).run()
    done = steps(*shell("cat state && sleep 3; exit 3")).run()
    assert done.stdout == "1\n"
    assert [found.path for found in bucket.objects("c")] == ["c/0.tar"]


def test_without_its_addresses_a_step_is_refused(steps, tmp_path):
    folder = steps("echo", "must not run")
    (folder.path / "in" / protocol.CHECKPOINT).write_text('{"key": "zz"}')
    done = folder.run(env={**os.environ, "TMPDIR": str(tmp_path)})
    assert list(tmp_path.glob("stepop-*")) == []
    assert done.code == protocol.EXIT_REFUSED
    assert "checkpoint.json is damaged" in done.failure["summary"]


# -- the archive


def sealed(tmp_path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    path = tmp_path / "a.tar"
    path.write_bytes(data + hmac.new(KEY, data, "sha256").digest())
    verify(str(path), KEY)
    return str(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, to: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info, b"data" if kind == tarfile.REGTYPE else b""


STRANGE = {
    "absolute": [member("/tmp/evil")],
    "above": [member("../evil")],
    "above, hidden": [member("a/../../evil")],
    "link above": [member("a", tarfile.SYMTYPE, "../evil")],
    "link to an absolute name": [member("a", tarfile.SYMTYPE, "/etc")],
    "link with a detour": [member("l", tarfile.SYMTYPE, "."), member("a", tarfile.SYMTYPE, "l/../x")],
    "link below a link": [
        member("d", tarfile.DIRTYPE),
        member("d/x", tarfile.SYMTYPE, ".."),
        member("d/x/y", tarfile.SYMTYPE, "../.."),
    ],
    "link below a link that comes later": [
        member("d", tarfile.DIRTYPE),
        member("d/x/y", tarfile.SYMTYPE, "../.."),
        member("d/x", tarfile.SYMTYPE, ".."),
    ],
    "through a link": [member("a", tarfile.SYMTYPE, "b"), member("a/evil")],
    "hard link": [member("a", tarfile.LNKTYPE, "/etc/passwd")],
    "device": [member("a", tarfile.CHRTYPE)],
    "pipe": [member("a", tarfile.FIFOTYPE)],
    "twice": [member("a"), member("a")],
}


@pytest.mark.parametrize("members", STRANGE.values(), ids=STRANGE)
def test_nothing_leaves_the_folder(tmp_path, members):
    (tmp_path / "folder").mkdir()
    with pytest.raises((ForgedError, OSError)):
        unpack(sealed(tmp_path, *members), str(tmp_path / "folder"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "folder"]
    assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


def test_modes_of_another_user_do_not_come_back(tmp_path):
    (tmp_path / "folder").mkdir()
    info, data = member("a")
    info.mode = 0o6755
    unpack(sealed(tmp_path, (info, data)), str(tmp_path / "folder"))
    assert stat.S_IMODE((tmp_path / "folder" / "a").stat().st_mode) == 0o755


def test_the_limit_counts_everything(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"x" * 1000)
    path = str(tmp_path / "a.tar")
    size, _ = pack(str(tmp_path / "folder"), path, KEY, 1 << 20, print)
    assert pack(str(tmp_path / "folder"), path, KEY, size, print)[0] == size
    with pytest.raises(TooLargeError):
        pack(str(tmp_path / "folder"), path, KEY, size - 1, print)


def test_every_change_is_seen(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    seen = {fingerprint(str(folder))}

    def changed() -> bool:
        found = fingerprint(str(folder))
        return found not in seen and not seen.add(found)

    (folder / "a").write_text("1")
    assert changed()
    (folder / "new").write_text("2")
    os.utime(folder / "new", ns=((folder / "a").stat().st_mtime_ns,) * 2)
    (folder / "new").replace(folder / "a")
    assert changed(), "another file of the same size and time"
    (folder / "sub").mkdir()
    assert changed()
    (folder / "a").unlink()
    assert changed()
    assert not changed()


# -- in a folder that the service copies to a bucket and brings back


@pytest.fixture
def copied(tmp_path):
    """Return the folder."""
    return tmp_path / "opt" / "ml" / "checkpoints"


@pytest.fixture
def file_steps(new_folder, copied, tmp_path):
    """Return a maker of steps that keep their checkpoint in the folder. The snapshot of an earlier job comes
    in the folder ``earlier``, which is read only.
    """

    def make(*words: str, key: bytes = KEY):
        table = {
            "get": [
                {"url": str(copied / "own.tar"), "uri": "s3://b/own.tar"},
                {"url": str(tmp_path / "earlier" / "other.tar"), "uri": "s3://b/other.tar"},
            ],
            "put": str(copied / "own.tar"),
            "headers": {},
            "key": key.hex(),
            "most_bytes": 5 << 30,
        }
        folder = new_folder().set(checkpoint=True).command(*words)
        (folder.path / "in" / protocol.CHECKPOINT).write_text(json.dumps(table))
        features = frozenset({"command", "snapshots"})  # without addresses, a job needs no network
        (folder.path / "in" / protocol.RUNNER).write_bytes(runner_zipapp(features))
        return folder

    return make


def test_files_there_and_back(file_steps, copied, any_python):
    first = file_steps(*shell("mkdir a && echo 1 > a/one; exit 3"))
    done = first.run(any_python)
    assert done.failure["exit_code"] == 3
    assert "checkpoint saved for the next try" in done.stderr
    assert [path.name for path in copied.iterdir()] == ["own.tar"]
    done = file_steps(*shell("cat a/one")).run(any_python)
    assert done.stdout == "1\n", done.stderr
    assert "checkpoint restored: 1 file" in done.stderr


def test_the_snapshot_of_an_earlier_job_comes_as_input(file_steps, copied, tmp_path):
    file_steps(*shell("echo 7 > state; exit 3")).run()
    copied.rename(tmp_path / "earlier")
    (tmp_path / "earlier" / "own.tar").rename(tmp_path / "earlier" / "other.tar")
    before = (tmp_path / "earlier" / "other.tar").read_bytes()
    done = file_steps(*shell("cat state && echo 8 > state; exit 3")).run()
    assert done.stdout == "7\n"
    assert (tmp_path / "earlier" / "other.tar").read_bytes() == before
    assert file_steps(*shell("cat state")).run().stdout == "8\n", "the own snapshot is the newer one"


def test_killed_hard_it_goes_on_at_the_last_file(file_steps, copied, edge_python):
    """Each snapshot is renamed into its place, so that the service never copies a half one."""
    folder = file_steps(*train(edge_python, 1000, 0.3, "0"))
    with started(folder.argv(edge_python), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL):
        wait_until((copied / "own.tar").exists, "a snapshot in the folder", pause_s=0.05)
    verify(str(copied / "own.tar"), KEY)
    done = file_steps(*train(edge_python, 0, 0, "0")).run(edge_python)
    assert 0 < int(done.stdout.split()[2]) < 1000, done.stderr


def test_a_half_file_of_a_killed_save_is_not_restored(file_steps, copied):
    file_steps(*shell("echo 1 > state; exit 3")).run()
    (copied / "own.tar.part").write_bytes(b"half")
    done = file_steps(*shell("cat state; exit 3")).run()
    assert done.stdout == "1\n"
    assert [path.name for path in copied.iterdir()] == ["own.tar"]


def test_a_file_above_the_limit_is_not_copied(file_steps, copied):
    """The file is sparse: its copy would not be."""
    folder = file_steps(*shell("cat state"))
    place = folder.path / "in" / protocol.CHECKPOINT
    table = json.loads(place.read_bytes())
    place.write_text(json.dumps({**table, "most_bytes": 1 << 20}))
    own = table["get"][0]["url"]
    os.makedirs(os.path.dirname(own), exist_ok=True)
    with open(own, "wb") as stream:
        stream.truncate(1 << 40)
    done = folder.run()
    assert done.code == protocol.EXIT_REFUSED
    assert "it has 1 TiB, and this task saves at most 1 MiB" in done.failure["summary"]


def test_a_file_of_another_key_is_refused(file_steps, edge_python):
    file_steps(*shell("echo 1 > state; exit 3")).run(edge_python)
    done = file_steps("true", key=b"o" * 32).run(edge_python)
    assert done.code == protocol.EXIT_REFUSED
    assert "its checkpoint s3://b/own.tar was refused" in done.failure["summary"]


def test_a_folder_that_cannot_be_written(file_steps, copied):
    copied.parent.mkdir(parents=True)
    copied.write_text("a file, and no folder")
    done = file_steps(*shell("echo 1 > state; exit 3")).run()
    assert done.code == protocol.EXIT_REFUSED
    assert "its checkpoint cannot be restored" in done.failure["summary"]
