"""Staged input: several submits of one job, crashes between two writes, and a bucket that others change."""

from __future__ import annotations

import json
import threading
from hashlib import sha256
from urllib.parse import unquote_to_bytes

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.base import InputFile, job_path, remove_sealed, seal_key, stage, unstage
from airflow_stepop.runner.sealing import sealed, unsealed
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.folder import FolderStore
from tests.support.line import Line
from tests.support.waiting import PATIENCE_S

LABELS = {"deployment": "prod", "dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1"}
JOB = job_path(LABELS, "s-d-t-0123456789ab")
KEY = seal_key("n0nce")


def files(code=b"code", runner=b"runner", address=b"signed"):
    """Return the input files of a submit: one part, the runner, an address that is secret, and paths."""
    parts = {"code.zip": {"sha256": sha256(code).hexdigest(), "size": len(code)}}
    return {
        "code.zip": InputFile([code[:2], code[2:]]),
        "locations.json": InputFile([address], is_secret=True),
        "extra.json": InputFile([b"{}"]),
        "manifest.json": InputFile([json.dumps({"parts": parts}).encode()]),
        "step.pyz": InputFile([runner]),
    }


def held(store, uri):
    """Return name -> bytes of the objects below a URI."""
    folder = store.path_of(uri)
    return {
        found.path.removeprefix(f"{folder}/"): bytes(store.read(found.path, found.size))
        for found in store.objects(folder)
    }


def check(store, staged, given):
    """Check that a job that gets ``staged`` in its request finds the files of ``given``."""
    found = held(store, staged.uri)
    assert sha256(found["manifest.json"]).hexdigest() == staged.digest
    assert sha256(found["step.pyz"]).hexdigest() == staged.runner_digest
    assert found["manifest.json"] == given["manifest.json"].data
    assert found["step.pyz"] == given["step.pyz"].data
    assert found[sha256(given["code.zip"].data).hexdigest()] == given["code.zip"].data
    address = unsealed(found["locations.json.sealed"], KEY, "locations.json")
    assert address == given["locations.json"].data
    assert sum(map(len, found.values())) == staged.size


@pytest.fixture(params=["folder", "s3_server", "gcs_server"])
def store(request, home, monkeypatch):
    if request.param == "folder":
        yield open_store(f"{home}/store")
        return
    store = open_store(address := request.getfixturevalue(request.param).new_address())
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", address)
    yield store
    store.delete_folder("")


class Service(FolderStore):
    """A folder store that fails or waits like a service: before or after a write, or with a lost answer."""

    def __init__(self, folder):
        super().__init__(f"file://{folder}")
        self.written = []
        self.before = lambda path: None
        self.is_answer_lost = lambda path: False

    def put_new(self, path, *buffers):
        self.before(path)
        is_new = super().put_new(path, *buffers)
        self.written.append(path.rpartition("/")[2])
        return is_new and not self.is_answer_lost(path)

    def put(self, path, *buffers):
        self.before(path)
        super().put(path, *buffers)
        self.written.append(path.rpartition("/")[2])


@pytest.fixture
def service(home):
    return Service(home / "store")


def test_what_is_staged(store):
    given = files()
    staged = stage(store, JOB, given, KEY)
    assert staged.uri.startswith(store.uri("jobs/prod/d/r/t/1-"))
    check(store, staged, given)
    again = stage(store, JOB, given, KEY)
    assert again == staged
    assert len({*store.list(JOB)}) == 5


def test_the_manifest_comes_last(service):
    stage(service, JOB, files(), KEY)
    assert service.written[-1] == "manifest.json"


def test_names_in_the_bucket_have_no_double_slash(service):
    """S3 channels of SageMaker refuse such names."""
    stage(service, job_path({}, "s-x"), files(), KEY)
    assert not [path for path in service.list("") if "//" in path]


def test_two_submits_race_with_different_bytes(store):
    """Whichever request the service accepts, its job finds the bytes of the same submit."""
    given = [files(code=b"code-%d" % number, address=b"signed-%d" % number) for number in range(4)]
    start, found = threading.Barrier(len(given)), {}

    def submit(number):
        start.wait(PATIENCE_S)
        found[number] = stage(store, JOB, given[number], KEY)

    threads = [threading.Thread(target=submit, args=[number]) for number in range(len(given))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    for number, one in enumerate(given):
        check(store, found[number], one)


def test_two_submits_race_with_the_same_bytes(store):
    given, found = files(), []
    threads = [threading.Thread(target=lambda: found.append(stage(store, JOB, given, KEY))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(set(found)) == 1
    assert len(found) == 4
    check(store, found[0], given)


@pytest.mark.parametrize("lost", ["manifest.json", "step.pyz", sha256(b"code").hexdigest()])
def test_a_lost_answer_of_a_write(service, lost):
    """The repeated request says that the object exists. It has the bytes of this very call."""
    given = files()
    service.is_answer_lost = lambda path: path.endswith(lost)
    check(service, stage(service, JOB, given, KEY), given)
    assert service.written.count(lost) == 1


class LosingLine(Line):
    """A line to a server. The first answer to a request that writes ``name`` gets lost."""

    def __init__(self, url, name):
        self.name = name.encode()
        self.is_armed = False
        self.lost = 0
        super().__init__(url)

    def _send(self, target, data):
        if data.startswith(b"PUT ") and self.name in unquote_to_bytes(data.partition(b"\r\n")[0]):
            self.is_armed = not self.lost
        elif self.is_armed and data.startswith(b"HTTP/1.1 200"):
            self.is_armed, self.lost = False, self.lost + 1
            raise ConnectionResetError
        super()._send(target, data)


@pytest.mark.parametrize("name", ["manifest.json", "step.pyz", sha256(b"code").hexdigest()])
def test_a_lost_answer_of_a_real_server(bucket_server, connect, name):
    """The store's client sends the create-only request again, and the server says that the object exists."""
    line = LosingLine(bucket_server.endpoint, name)
    store, given = connect(bucket_server.through(line.url)), files()
    check(store, stage(store, JOB, given, KEY), given)
    assert line.lost == 1
    store.delete_folder("")
    line.cut()


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("code", [b"code", b"other"])
def test_a_stalled_writer_that_goes_on(service, at, code):
    """A worker stalls before one of its writes. Another one submits, and then the first one goes on."""
    first, second = files(), files(code=code, address=b"newer!")
    is_stalled, may_go_on, result = threading.Event(), threading.Event(), []

    def stall(path):
        seen.append(path)
        if len(seen) == at + 1:  # only the first writer is at work
            is_stalled.set()
            assert may_go_on.wait(PATIENCE_S)

    seen: list[str] = []
    writer = threading.Thread(target=lambda: result.append(stage(service, JOB, first, KEY)))
    service.before = stall
    writer.start()
    assert is_stalled.wait(PATIENCE_S)
    staged = stage(service, JOB, second, KEY)
    check(service, staged, second)
    may_go_on.set()
    writer.join(PATIENCE_S)
    assert held(service, staged.uri)["manifest.json"] == second["manifest.json"].data
    if code == b"code":
        assert result == [staged]
    else:
        check(service, result[0], first)
        check(service, staged, second)


@pytest.mark.parametrize("at", range(5))
def test_a_crash_between_two_writes(service, at):
    given = files()

    def crash(path):
        if len(service.written) == at:
            raise KeyboardInterrupt

    service.before = crash
    with pytest.raises(KeyboardInterrupt):
        stage(service, JOB, given, KEY)
    assert "manifest.json" not in service.written
    service.before = lambda path: None
    check(service, stage(service, JOB, given, KEY), given)


@pytest.mark.parametrize("name", ["manifest.json", "step.pyz", sha256(b"code").hexdigest()])
def test_a_changed_object_is_never_believed(store, name, caplog):
    """Write access to the bucket must not be enough to run code in the next submit of the job."""
    given = files()
    staged = stage(store, JOB, given, KEY)
    path = f"{store.path_of(staged.uri)}/{name}"
    store.put(path, b"import evil")
    assert stage(store, JOB, given, KEY) == staged
    check(store, staged, given)
    assert f"{store.uri(path)} " in caplog.text


def test_addresses_are_written_anew(store):
    """A job that waits for quota is submitted again days later, when the first signatures have expired."""
    first = stage(store, JOB, files(), KEY)
    newer = files(address=b"signed later")
    second = stage(store, JOB, newer, KEY)
    assert first.uri == second.uri
    check(store, second, newer)


def test_a_runner_of_another_version_lies_beside(store):
    """Airflow was upgraded between two submits. The runner of a job's request never changes."""
    old, new = files(), files(runner=b"newer runner")
    staged = [stage(store, JOB, given, KEY) for given in (old, new)]
    assert staged[0].uri != staged[1].uri
    check(store, staged[0], old)
    check(store, staged[1], new)


def test_a_secret_is_never_written_in_clear_text(store):
    with pytest.raises(StepConfigError, match=r"locations\.json must be sealed"):
        stage(store, JOB, files(), None)
    assert not [*store.list("jobs")]
    staged = stage(store, JOB, files(address=b"signed-address"), KEY)
    assert not [data for data in held(store, staged.uri).values() if b"signed-address" in data]


def test_sealed_files_go_when_the_job_has_ended(store):
    """Whatever is kept of a job, its addresses and secrets are not."""
    given = files()
    staged = [stage(store, JOB, one, KEY) for one in (given, files(code=b"other"))]
    other = stage(store, job_path(LABELS, "s-other"), given, KEY)
    for _ in range(2):
        remove_sealed(store, JOB)
    for one in staged:
        assert {"manifest.json", "step.pyz", "extra.json"} < {*held(store, one.uri)}
        assert "locations.json.sealed" not in held(store, one.uri)
    check(store, other, given)
    for _ in range(2):
        unstage(store, JOB)
    assert not [*store.list(JOB)]
    check(store, other, given)


def test_an_object_is_deleted(store):
    store.put_new("a/x", b"1")
    store.put_new("a/y", b"2")
    for _ in range(2):
        store.delete("a/x")
    assert [*store.list("a")] == ["a/y"]


# -- sealing


def test_a_sealed_file_opens_with_its_key_and_name():
    data = b"TOKEN" * 100
    blob = sealed(data, KEY, "secrets.json")
    assert unsealed(blob, KEY, "secrets.json") == data
    assert blob != sealed(data, KEY, "secrets.json")
    assert b"TOKEN" not in blob
    assert unsealed(sealed(b"", KEY, "x"), KEY, "x") == b""
    for key, name in ((KEY, "uploads.json"), (seal_key("other"), "secrets.json")):
        with pytest.raises(ValueError, match="was changed after it was sealed"):
            unsealed(blob, key, name)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[1:], lambda b: b"", lambda b: b + b"x"])
def test_a_damaged_sealed_file_is_refused(damage):
    blob = sealed(b"data", KEY, "x")
    with pytest.raises(ValueError, match="x was changed"):
        unsealed(damage(blob), KEY, "x")
    for at in range(len(blob)):
        with pytest.raises(ValueError, match="x was changed"):
            unsealed(blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :], KEY, "x")


def test_the_key_is_the_same_in_every_try_and_another_for_every_job():
    assert seal_key("a") == seal_key("a") != seal_key("b")
    assert len(KEY) == 32
