"""The store: objects are whole or absent, and inside its folder. Errors say what is wrong."""

from __future__ import annotations

import random
import re
import subprocess
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import pytest

from airflow_stepop.core.host import host_id
from airflow_stepop.core.naming import job_name, slug
from airflow_stepop.exceptions import StepConfigError, StoreError, WrongHostError
from airflow_stepop.stores.base import PathRange
from airflow_stepop.stores.bucket import SINGLE_PUT_BYTES
from airflow_stepop.stores.configured import (
    configured_store,
    configured_stores,
    default_store,
    locate,
    open_store,
    step_store,
)
from airflow_stepop.stores.paths import part_path, result_path


@pytest.fixture(params=["folder", "s3", "gs"])
def address(request, tmp_path):
    """The address of an empty store, one of each kind."""
    if request.param == "folder":
        return f"{tmp_path}/store"
    return request.getfixturevalue("s3_server" if request.param == "s3" else "gcs_server").new_address()


@pytest.fixture
def store(address):
    store = open_store(address)
    yield store
    store.delete_folder("")


@pytest.fixture(autouse=True)
def configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{tmp_path}/store")
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", f"{tmp_path}/second, file://{tmp_path}/th%20ird")


def test_objects_are_written_once_and_read_back_writable(store):
    assert store.put_new("parts/a", b"first")
    assert not store.put_new("parts/a", b"other")
    data = store.read("parts/a", 5)
    data[0] = 0
    assert data == b"\0irst"
    assert store.read("parts/a", 5) == b"first"


@pytest.mark.parametrize("size", [5, SINGLE_PUT_BYTES + 1])
def test_an_object_can_be_put_in_place_of_another(store, size):
    for data in (random.Random(size).randbytes(size), bytes(size - 1)):
        store.put("parts/a", data[:2], data[2:])
        assert store.read("parts/a", len(data)) == data


def test_many_writers_of_one_object_leave_it_whole(store):
    values = [bytes([number]) * 1_000_000 for number in range(6)]
    won = []
    threads = [threading.Thread(target=lambda v=v: won.append(store.put_new("x", v))) for v in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 5 + [True]
    assert bytes(store.read("x", 1_000_000)) in values
    assert list(store.list("")) == ["x"], "no half-written file is left"


def test_a_size_that_differs_is_an_error(store):
    store.put_new("a", b"12345")
    for size in (4, 6):
        with pytest.raises(StoreError, match=f"is not the {size} bytes"):
            store.read("a", size)


def test_what_is_gone_is_explained(store):
    with pytest.raises(StoreError, match=r"could not be read: .*/gone.*: .*(No such file|NoSuchKey)"):
        store.read("gone", 1)


def test_names_survive_addresses(address):
    store = open_store(address + "/" + quote("a b%20ü#?"))
    path = "results/ü #?%41/x"
    store.put_new(path, b"x")
    assert store.path_of(store.uri(path)) == path
    assert store.read(store.path_of(store.uri(path)), 1) == b"x"
    assert list(store.list("results")) == [path]
    assert open_store(store.url).url == store.url
    store.delete_folder("")


@pytest.mark.parametrize("size", [0, 1, SINGLE_PUT_BYTES, SINGLE_PUT_BYTES + 1, 8 << 20, 40_000_000])
def test_objects_of_any_size(store, size):
    """A small object is one request, a large one many. A second writer never changes an existing object."""
    data = random.Random(size).randbytes(size)
    head, tail = data[: size // 3], memoryview(data)[size // 3 :]
    assert store.put_new("x", head, tail)
    assert not store.put_new("x", bytes(size)), "whatever the size of the collision"
    assert store.read("x", size) == data
    assert [(found.path, found.size) for found in store.objects("")] == [("x", size)]


def test_ranges_of_several_objects_in_a_row(store):
    data = random.Random(0).randbytes(36 << 20)
    store.put_new("a", data)
    store.put_new("b", b"0123456789")
    ranges = [
        PathRange("b", 10),
        PathRange("a", 20 << 20, 7),
        PathRange("b", 3, 4),
        PathRange("a", 5, len(data) - 5),
    ]
    buffer = bytearray(sum(path_range.size for path_range in ranges))
    parts = [bytes(part) for part in store.fill(ranges, memoryview(buffer))]
    assert b"".join(parts) == buffer, "in order, each after it was filled"
    assert buffer == b"0123456789" + data[7 : 7 + (20 << 20)] + b"456" + data[-5:]
    with pytest.raises(StoreError, match="is not the 4 bytes"):
        list(store.fill([PathRange("b", 4, 8)], memoryview(bytearray(4))))


@pytest.mark.parametrize(
    "path", ["../x", "a/../../x", "/etc/passwd", "a//b", "./x", "", "a/%2e%2e/%2e%2e/x", "..%2fx", "a/."]
)
def test_an_address_cannot_leave_the_store(store, path):
    assert store.path_of(f"{store.url}/{path}") is None


def test_a_folder_beside_the_store_is_not_in_it(store):
    assert store.path_of(f"{store.url}-other/x") is None
    assert store.path_of(store.url) is None


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s4://bucket", "unknown scheme 's4'"),
        ("relative/folder", "unknown scheme ''"),
        ("file://host/folder", "is not an absolute folder; write file:///srv/stepop"),
        ("file:folder", "is not an absolute folder"),
        ("", "unknown scheme ''"),
        ("az://bucket", "unknown scheme 'az'; use a folder, such as file:///srv/stepop, or a bucket (s3://"),
        ("gs://", "is not the address of a bucket; write gs://bucket/prefix or gs://conn_id@bucket/prefix"),
        ("s3://", "is not the address of a bucket; write s3://bucket/prefix or s3://conn_id@bucket/prefix"),
        ("s3:///prefix", "is not the address of a bucket"),
        ("s3://buck et/prefix", "is not the address of a bucket"),
        ("s3://bucket/prefix?x=1", "is not the address of a bucket"),
    ],
)
def test_wrong_addresses(url, text):
    with pytest.raises(StepConfigError, match=re.escape(text)):
        open_store(url)


def test_configured_stores(tmp_path):
    assert [s.folder for s in configured_stores()] == [
        tmp_path / "store",
        tmp_path / "second",
        tmp_path / "th ird",
    ]
    assert default_store().folder == tmp_path / "store"
    assert configured_store(None).folder == tmp_path / "store"
    assert configured_store(f"{tmp_path}/second").folder == tmp_path / "second"
    with pytest.raises(
        StepConfigError, match=r"store='/elsewhere' is not configured.*\[stepop\] extra_stores"
    ):
        configured_store("/elsewhere")


def test_without_configuration_the_store_is_below_the_airflow_home(tmp_path, monkeypatch):
    monkeypatch.delenv("AIRFLOW__STEPOP__STORE")
    assert default_store().folder == tmp_path / "stepop" / "store"


def test_the_store_below_the_airflow_home_is_for_this_user_only(tmp_path, monkeypatch):
    """From the first moment on; an existing one keeps its mode."""
    monkeypatch.delenv("AIRFLOW__STEPOP__STORE")
    folder = default_store().folder
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    assert default_store().folder.stat().st_mode & 0o777 == 0o750


def test_a_backend_uses_the_first_further_store_that_its_jobs_reach(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", "")
    monkeypatch.setenv("AIRFLOW__STEPOP__EXTRA_STORES", f"{tmp_path}/second, s3://one/a, s3://two/b")
    assert step_store(None, "s3").url == "s3://one/a"
    assert step_store("s3://two/b", "s3").url == "s3://two/b"
    assert step_store(None).folder == default_store().folder
    assert step_store(None, "gs").folder == default_store().folder, "the hook says that it is of no use"
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"{tmp_path}/store")
    assert step_store(None, "s3").folder == tmp_path / "store"


def test_references_are_looked_for_in_all_configured_stores(tmp_path):
    store, path = locate(f"file://{tmp_path}/second/a/b")
    assert (store.folder, path) == (tmp_path / "second", "a/b")
    with pytest.raises(
        StoreError, match="refused to read file:///etc/passwd: it lies outside the configured stores"
    ):
        locate("file:///etc/passwd")


def test_a_file_of_another_host_is_explained(tmp_path):
    with pytest.raises(WrongHostError, match=rf"was written on the host far-away, and this is {host_id()}"):
        locate(f"file://{tmp_path}/store/x", "far-away")
    open_store(f"{tmp_path}/store").put_new("x", b"1")
    assert locate(f"file://{tmp_path}/store/x", "far-away")[1] == "x", "a shared folder"


def test_a_folder_is_deleted_and_nothing_beside_it(store):
    for path in ("results/a/1", "results/a/2", "results/ab/1"):
        store.put_new(path, b"")
    store.delete_folder("results/a")
    store.delete_folder("results/none")
    assert list(store.list("")) == ["results/ab/1"]


def test_a_link_in_a_folder_store_leads_nowhere(tmp_path):
    """Whoever may write to the folder cannot make Airflow read or change files elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret").write_bytes(b"data")
    store = open_store(f"{tmp_path}/store")
    store.put_new("results/own", b"own")
    (tmp_path / "store" / "results" / "out").symlink_to(elsewhere)
    (tmp_path / "store" / "results" / "one").symlink_to(elsewhere / "secret")
    for path in ("results/out/secret", "results/one"):
        for look in (lambda: store.size_of(path), lambda: store.read(path, 4)):  # noqa: B023 - called at once
            with pytest.raises(StoreError, match="if a part of this path is a link, remove it"):
                look()
    for put in (store.put, store.put_new):
        with pytest.raises(StoreError, match="if a part of this path is a link, remove it"):
            put("results/out/new", b"mine")
    assert not store.put_new("results/one", b"mine"), "something has this name"
    store.put("results/one", b"mine")
    assert store.read("results/one", 4) == b"mine", "the link was replaced"
    assert [(path.name, path.read_bytes()) for path in elsewhere.iterdir()] == [("secret", b"data")]


def test_a_store_that_cannot_be_made_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"could not be opened: .*Check that the folder exists, has space"):
        open_store(str(tmp_path / "file" / "store")).put_new("x", b"")


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system for the test, as file modes do not bind the root user."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def mount(*options: str) -> Path:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this host does not let us mount: {done.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def test_a_read_only_store_is_explained(mounted):
    store = open_store(str(mounted("-t", "tmpfs", "-o", "ro", "tmpfs")))
    with pytest.raises(StoreError, match=r"could not be written: .*/x: .*Read-only file system"):
        store.put_new("x", b"1")


def test_a_full_store_is_explained_and_keeps_no_half_object(mounted):
    store = open_store(str(mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs")))
    with pytest.raises(StoreError, match=r"could not be written: .*/x: .*No space left"):
        store.put_new("x", bytes(1_000_000))
    assert list(store.list("")) == []
    assert store.put_new("x", b"1"), "it does not count as written"


# -- names


def test_paths_are_readable_and_safe():
    labels = {
        "dag_id": "Träining/../x",
        "run_id": "manual__2024-01-01T00:00:00+00:00",
        "task_id": "t",
        "map_index": "-1",
    }
    folders = result_path(labels, "s-job").split("/")
    assert len(folders) == 7
    assert folders[:2] == ["results", "_"]
    assert all(set(folder) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for folder in folders[2:])
    assert folders[2].startswith("training-x-")
    assert result_path({"deployment": "prod"}, "s-job").startswith("results/prod/")
    assert result_path({"deployment": "_"}, "s-job").split("/")[1] != "_"


def test_parts_are_in_the_folder_of_the_week_of_their_submission():
    monday = datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    assert part_path("ab", monday) == "parts/2026-11-23/ab"
    assert part_path("ab", monday + 7 * 86400 - 0.001) == "parts/2026-11-23/ab"
    assert part_path("ab", monday + 7 * 86400) == "parts/2026-11-30/ab"
    assert part_path("ab", monday - 0.001) == "parts/2026-11-16/ab"


def test_a_listing_tells_size_and_age(store):
    assert list(store.objects("results")) == []
    store.put_new("results/a/1", b"abc")
    store.put_new("parts/b", b"")
    (found,) = store.objects("results")
    assert (found.path, found.size) == ("results/a/1", 3)
    assert abs(found.modified_at - time.time()) < 60


@pytest.mark.parametrize(
    "text", ["", "-", "ü" * 250, "漢字" * 125, "a" * 250, "a.b", "A", "\ud83e", "a/../b", "a\0b", " "]
)
def test_any_text_becomes_a_name(text):
    made = slug(text, 60)
    assert 0 < len(made) <= 60
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert made[0] != "-"
    name = job_name(text, text, "nonce")
    assert 0 < len(name) <= 52
    assert name[0].isalpha()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert not name.endswith("-")


def test_different_texts_have_different_names():
    texts = ["a", "A", "a_", "a-", "a.b", "a-b", "ab", "ä", "a" * 60, "a" * 61, "a" * 62, "", "x", "漢", "字"]
    assert len({slug(text, 60) for text in texts}) == len(texts)
    assert job_name("d", "t", "1") != job_name("d", "t", "2")


def test_valid_names_are_left_unchanged():
    assert slug("train-model-7", 60) == "train-model-7"
    assert job_name("dag", "task", "n").startswith("s-dag-task-")
