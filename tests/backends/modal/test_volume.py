"""The files of jobs in a Volume: staged as in a store, read back block by block, deleted with the job."""

from __future__ import annotations

import json
import resource
import secrets
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pytest

from airflow_stepop.exceptions import StoreError
from airflow_stepop.hooks.common.input_files import InputFile
from airflow_stepop.hooks.common.staging import remove_sealed, stage, unstage
from airflow_stepop.hooks.modal.volume import VolumeFiles
from airflow_stepop.runner.protocol import MANIFEST, RUNNER, SECRETS
from tests.support.memory import at_most
from tests.support.modal import Modal

FOLDER = "jobs/_/dag/run/task/-1/s-job"
KEY = b"k" * 32
LARGE = 128 << 20


@pytest.fixture
def files(modal_server: Modal) -> VolumeFiles:
    return VolumeFiles(modal_server.client(), None)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No process of the test can write a file of more than a MiB, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def inputs(**others: InputFile) -> dict[str, InputFile]:
    data = b"part" * 1000
    manifest = json.dumps({"parts": {"a": {"sha256": sha256(data).hexdigest(), "size": len(data)}}}).encode()
    named = {"a": data, MANIFEST: manifest, RUNNER: b"the runner"}
    return {**{name: InputFile([one]) for name, one in named.items()}, **others}


def texts(files: VolumeFiles, folder: str = FOLDER) -> dict[str, bytes]:
    return {path: b"".join(files.chunks(path)) for path in files.list(folder)}


def test_the_volume_is_made_once_per_environment(modal_server: Modal, files: VolumeFiles) -> None:
    assert files.put_new("a/b", b"1", b"2")
    assert files.put_new("a/c", b"")
    assert texts(files, "a") == {"a/b": b"12", "a/c": b""}
    assert modal_server.calls("VolumeGetOrCreate") == 1


def test_a_file_is_written_once(files: VolumeFiles) -> None:
    assert files.put_new("a", b"first")
    assert not files.put_new("a", b"second")
    assert files.read("a", 5) == b"first"
    files.put("a", b"third!")
    assert files.read("a", 6) == b"third!"
    assert files.size_of("a") == 6


def test_a_large_file_takes_little_memory(files: VolumeFiles) -> None:
    """Neither on its way into the Volume nor back. The client itself reads a few blocks ahead."""
    piece = secrets.token_bytes(1 << 20)
    files.put("warm", piece)
    with at_most(0.5 * LARGE):
        assert files.put_new("large", *[memoryview(piece)] * (LARGE >> 20))
        digest = sha256()
        for block in files.chunks("large"):
            digest.update(block)
    assert digest.hexdigest() == sha256(piece * (LARGE >> 20)).hexdigest()


def test_a_full_disk_of_the_worker(files: VolumeFiles, small_files: None) -> None:
    with pytest.raises(StoreError, match=r"large could not be copied .* set TMPDIR"):
        files.put("large", bytes(8 << 20))


def test_what_is_not_there(files: VolumeFiles) -> None:
    assert files.entries("nowhere") is None
    assert list(files.list("nowhere")) == []
    files.delete("nowhere")
    files.delete_folder("nowhere")
    for ask in (lambda: files.size_of("nowhere"), lambda: files.read("nowhere", 1)):
        with pytest.raises(StoreError, match="nowhere"):
            ask()


def test_another_size_is_refused(files: VolumeFiles) -> None:
    files.put_new("a", b"first")
    with pytest.raises(StoreError, match="has more than 4 bytes"):
        files.read("a", 4)


def test_large_files_come_in_blocks(files: VolumeFiles) -> None:
    data = bytes(range(256)) * (40 << 12)  # 40 MiB: several blocks
    files.put_new("large", memoryview(data)[: 1 << 20], memoryview(data)[1 << 20 :])
    blocks = list(files.chunks("large"))
    assert len(blocks) > 1
    assert b"".join(blocks) == data


def test_input_is_staged_as_in_a_store(files: VolumeFiles) -> None:
    """A second submit writes nothing anew; a file that somebody has changed is written again."""
    staged = stage(files, FOLDER, inputs(), None)
    before = texts(files)
    inner = f"{FOLDER}/{staged.uri.rpartition('/')[2]}"
    assert {path.removeprefix(f"{inner}/") for path in before} >= {MANIFEST, RUNNER}
    files.put(f"{inner}/{RUNNER}", b"hostile!!!")
    assert stage(files, FOLDER, inputs(), None) == staged
    assert texts(files) == before


def test_secrets_are_sealed_and_go_first(files: VolumeFiles) -> None:
    secret = InputFile([b'{"TOKEN": "s3cr3t"}'], is_secret=True)
    stage(files, FOLDER, inputs(**{SECRETS: secret}), KEY)
    assert not any(b"s3cr3t" in data for data in texts(files).values())
    remove_sealed(files, FOLDER)
    assert not any(path.endswith(".sealed") for path in texts(files))
    assert texts(files)


def test_a_folder_is_deleted_with_all_that_is_in_it(files: VolumeFiles) -> None:
    stage(files, FOLDER, inputs(), None)
    stage(files, f"{FOLDER}-other", inputs(), None)
    unstage(files, FOLDER)
    unstage(files, FOLDER)
    assert files.entries(FOLDER) is None
    assert texts(files, f"{FOLDER}-other")


def test_entries_say_what_is_a_folder(files: VolumeFiles) -> None:
    files.put_new("top/in/a", b"1")
    files.put_new("top/started", b"22")
    found: Any = files.entries("top")
    assert {(one.path, one.is_folder) for one in found} == {("top/in", True), ("top/started", False)}


def test_an_upload_that_cannot_reach_the_blocks_is_given_up(
    files: VolumeFiles, modal_server: Modal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API can be reached, and the store of the blocks cannot: the client would try for nine minutes."""
    monkeypatch.setattr("airflow_stepop.hooks.modal.calls.UPLOAD_S", 0.0)
    modal_server.do("fault", kind="hold", rpc="BlockPut")
    with pytest.raises(TimeoutError, match="did not answer"):
        files.put_new("a", b"first")
    modal_server.do("clear_faults")
