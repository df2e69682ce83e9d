"""A step with a checkpoint in a bucket, started and watched by the real code of Airflow's side."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.job import StepSpec
from airflow_stepop.maintenance.garbage import Kind, list_folders
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall, Setup
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.runner import protocol
from airflow_stepop.stores.paths import CHECKPOINTS, result_path
from tests.support.buckets import seldom_on_gcs
from tests.support.processes import parent_of, runners_below
from tests.support.waiting import PATIENCE_S, wait_until

MIB = 1 << 20
FOLDER = "checkpoints/_/dag/run/task/-1/arguments"
FIND = 'cd "$STEPOP_CHECKPOINT_DIR" && cat state 2>/dev/null'


class Tries:
    """The tries of one task. Each try is a job of its own."""

    def __init__(self, steps, store) -> None:
        self.steps = steps
        self.hook = steps.hook
        self.store = store
        self._count = 0

    def spec(self, script: str, **changes):
        self._count += 1
        job = f"s-{self._count}"
        call = CommandCall(argv=["sh", "-c", script], inputs={}, outputs=())
        setup = Setup(checkpoint=True)
        payload = build_payload(
            call, job=job, nonce=self.steps.nonce, setup=setup, split="no", is_result_wanted=True
        )
        uri = self.store.uri(result_path({}, job))
        spec = StepSpec(job, self.steps.nonce, {}, payload.digest, result_uri=uri)
        return replace(spec, **{"checkpoint_uri": self.store.uri(FOLDER), **changes}), payload

    def submit(self, script: str, **changes):
        return self.hook.submit(*self.spec(script, **changes))

    def start(self, script: str):
        """Submit a try and return once it has begun."""
        handle = self.submit(f'cd "$STEPOP_CHECKPOINT_DIR"; echo up; {script}')
        self.wait_for_line(handle, "up")
        return handle

    def end(self, handle):
        """Wait for a try to end; return its failure and its output."""
        wait_until(
            lambda: self.hook.status([handle])[handle].state,
            f"{handle} to end",
            holds=lambda state: state.is_terminal,
            explain=lambda: self.log(handle),
        )
        return self.hook.status([handle])[handle].failure, self.log(handle)

    def run(self, script: str, **changes):
        return self.end(self.submit(script, **changes))

    def log(self, handle) -> str:
        chunk = self.hook.logs({handle: None}).get(handle)
        return "\n".join(line.text for line in chunk.lines) if chunk else ""

    def saved(self):
        return sorted(self.store.objects("checkpoints"), key=lambda found: found.modified_at)

    def wait_for_line(self, handle, text: str) -> None:
        wait_until(lambda: self.log(handle), f"{handle} to print {text!r}", holds=lambda log: text in log)

    def runner(self, handle) -> int:
        """Return the process of the job's runner."""
        found = runners_below(self.hook.folder / handle.id)
        (runner,) = [pid for pid in found if parent_of(pid) not in found]
        return runner


@pytest.fixture
def tries(steps, bucket) -> Tries:
    return Tries(steps, bucket)


@pytest.fixture
def gated(steps, gate, connect, bucket_server) -> Iterator[Tries]:
    """Tries whose connection to the bucket goes through the gate."""
    tries = Tries(steps, connect(bucket_server.through(gate.url)))
    yield tries
    gate.open()
    tries.store.delete_folder("")


def test_the_next_job_finds_the_newest_snapshot(tries):
    for count in range(1, 4):
        tries.run(f"{FIND}; echo {count} >> state; exit 3")
    _, log = tries.run(FIND)
    assert log.split("\n")[1:] == ["1", "2", "3"]
    assert [found.path for found in tries.saved()] == [f"{FOLDER}/s-{count}.tar" for count in range(1, 4)]


def test_other_arguments_find_no_checkpoint(tries):
    tries.run(f"{FIND}; echo mine > state; exit 3")
    failure, log = tries.run(f"{FIND} || echo nothing", checkpoint_uri=tries.store.uri(FOLDER + "-others"))
    assert (failure, log) == (None, "nothing")


def test_a_cancelled_step_saves_within_the_grace_period(tries):
    handle = tries.submit(
        'cd "$STEPOP_CHECKPOINT_DIR"; trap "echo saved > state; exit 3" TERM; echo up; '
        "while :; do sleep 0.1; done"
    )
    tries.wait_for_line(handle, "up")
    tries.hook.cancel(handle)
    tries.end(handle)
    assert tries.run(FIND)[1].endswith("saved")


@pytest.mark.parametrize("saved_by", ["an earlier job", "the same job"])
def test_a_kill_during_an_upload_keeps_the_last_snapshot(gated, gate, tmp_path, saved_by):
    """The gate stops after a megabyte: the server has part of a snapshot when the runner is killed."""
    grow = "echo second > state; head -c 50000000 /dev/urandom > big; sleep 600"
    if saved_by == "an earlier job":
        gated.run(f"{FIND}; echo first > state; exit 3")
        handle = gated.submit(f"{FIND}; {grow}")
        gated.wait_for_line(handle, "restored")
    else:
        wait = f"until test -e {tmp_path}/go; do sleep 0.1; done"
        handle = gated.submit(f"{FIND}; echo first > state; {wait}; {grow}")
        wait_until(gated.saved, "the first snapshot", explain=lambda: gated.log(handle))
        (tmp_path / "go").touch()
    before = gated.saved()
    gate.stop_after(MIB)
    assert gate.stopped.wait(PATIENCE_S), "waited for a megabyte of the upload"
    os.kill(gated.runner(handle), signal.SIGKILL)
    failure, _ = gated.end(handle)
    gate.shut()
    gate.open()
    assert failure is not None
    assert gated.saved() == before
    assert gated.run(FIND)[1].endswith("first")


@seldom_on_gcs
def test_a_store_that_is_away_for_some_seconds_is_waited_for(gated, gate, tmp_path):
    handle = gated.start(f"until test -e {tmp_path}/go; do sleep 0.1; done; echo late > state; exit 3")
    gate.shut()
    (tmp_path / "go").touch()
    time.sleep(4)  # a slow machine may not have ended the step yet, and then nothing waits for the store
    assert not gated.hook.status([handle])[handle].state.is_terminal, "it waits"
    gate.open()
    gated.end(handle)
    spec, payload = gated.spec(FIND)
    gate.shut_after(1, for_s=3)  # the store is away also while the next job reads the snapshot
    assert gated.end(gated.hook.submit(spec, payload))[1].endswith("late")


@seldom_on_gcs
def test_a_store_that_is_away_while_the_step_runs_is_reported(gated, gate, tmp_path):
    handle = gated.start(f"until test -e {tmp_path}/go; do sleep 0.1; done; echo late > state; sleep 600")
    gate.shut()
    (tmp_path / "go").touch()
    gated.wait_for_line(handle, "the checkpoint could not be saved")
    gate.open()
    gated.wait_for_line(handle, "the checkpoint is saved again")
    os.kill(gated.runner(handle), signal.SIGKILL)
    _, log = gated.end(handle)
    assert log.count("could not be saved") == 1
    assert "Signature=" not in log
    assert gated.run(FIND)[1].endswith("late")


@seldom_on_gcs
def test_gc_sees_the_snapshots_of_a_task_as_one(tries):
    """Old, abandoned snapshots are deleted together. The database tells which tasks have abandoned theirs."""
    for count in range(2):
        tries.run(f"{FIND}; echo {count} > state; exit 3")
    saved = tries.saved()
    (found,) = list_folders(tries.store, CHECKPOINTS)
    assert (found.path, found.count) == (FOLDER.rpartition("/")[0], 2)
    assert (found.size, found.newest_at) == (sum(one.size for one in saved), saved[-1].modified_at)
    found.as_garbage(Kind.CHECKPOINTS).delete()
    assert tries.saved() == []


@seldom_on_gcs
def test_a_large_snapshot_comes_back_whole(tries):
    """A large snapshot is several ranges of one object."""
    data = random.Random(7).randbytes(40 * MIB)
    tries.steps.folder.mkdir(exist_ok=True)
    (tries.steps.folder.parent / "data").write_bytes(data)
    tries.run(f'cp {tries.steps.folder.parent}/data "$STEPOP_CHECKPOINT_DIR/big"; exit 3')
    failure, log = tries.run(f'cmp {tries.steps.folder.parent}/data "$STEPOP_CHECKPOINT_DIR/big"')
    assert failure is None, log


def test_a_changed_snapshot_is_refused(tries):
    """Users unpickle files in it. Write access to the bucket must not allow anyone to run code in steps."""
    tries.run(f"{FIND}; echo first > state; exit 3")
    (saved,) = tries.saved()
    data = bytes(tries.store.read(saved.path, saved.size)).replace(b"first", b"evil!")
    tries.store.delete_folder("checkpoints")
    tries.store.put_new(saved.path, data)
    handle = tries.submit(f"echo must not run; {FIND}")
    _, log = tries.end(handle)
    failure = read_outcome(tries.hook.outcome(handle), handle.name, tries.steps.nonce)["failure"]
    assert failure["category"] == "infra"
    assert f"its checkpoint {tries.store.uri(saved.path)} was refused" in failure["summary"]
    assert "must not run" not in log


@seldom_on_gcs
def test_the_snapshot_of_another_task_is_refused(tries):
    tries.run(f"{FIND}; echo mine > state; exit 3")
    (saved,) = tries.saved()
    other = FOLDER.replace("/task/", "/other/")
    tries.store.put_new(f"{other}/s-9.tar", tries.store.read(saved.path, saved.size))
    handle = tries.submit("echo must not run", checkpoint_uri=tries.store.uri(other))
    assert "was refused" in tries.end(handle)[1]


@seldom_on_gcs
def test_a_checkpoint_outlives_a_change_of_the_key(tries, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "old")
    tries.run(f"{FIND}; echo mine > state; exit 3")
    monkeypatch.setenv("AIRFLOW__STEPOP__SIGNING_KEY", "new,old")
    failure, log = tries.end(tries.submit(f"{FIND}; cat state"))
    assert failure is None
    assert "mine" in log


def test_addresses_and_key_are_in_a_private_file_only(tries):
    spec, payload = tries.spec(f"{FIND}; true")
    files = input_files(payload, spec)
    table = json.loads(gzip.decompress(files[protocol.CHECKPOINT].data))
    secrets = [table["key"], table["put"].partition("?")[2], table["get"][0]["url"].partition("?")[2]]
    handle = tries.hook.submit(spec, payload)
    failure, log = tries.end(handle)
    assert failure is None
    seen = json.dumps(tries.hook.render(spec)) + repr(spec) + repr(payload) + log
    seen += "".join(
        path.read_text(errors="replace")
        for path in (tries.hook.folder / handle.id).rglob("*")
        if path.is_file()
    )
    assert not any(secret in seen for secret in secrets)


def test_a_checkpoint_in_a_folder_needs_no_address_and_no_key(tries, tmp_path):
    spec, payload = tries.spec(FIND)
    uri = (tmp_path / "folder").as_uri()
    files = input_files(payload, replace(spec, result_uri=uri, checkpoint_uri=uri))
    assert protocol.CHECKPOINT not in files
