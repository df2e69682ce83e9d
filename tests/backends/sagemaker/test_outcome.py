"""The outcome in the job's output: each layout, and archives that somebody has forged."""

from __future__ import annotations

import gzip
import io
import os
import resource
import tarfile
from collections.abc import Callable

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.hooks.sagemaker import archive
from airflow_stepop.hooks.sagemaker.outcome import Output

JOB = "results/a/s-job"


@pytest.fixture
def output(store) -> Output:
    return Output(store.uri(JOB))


@pytest.fixture
def archived(store) -> Callable[..., None]:
    """Return a function that writes ``model.tar.gz`` with some members."""

    def write(*members: tuple[tarfile.TarInfo | str, bytes]) -> None:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for member, data in members:
                info = tarfile.TarInfo(member) if isinstance(member, str) else member
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        store.put(f"{JOB}/output/model.tar.gz", stream.getvalue())

    return write


def test_nothing_is_there(output):
    assert output.base_uri() is None
    assert output.model_uri() is None


def test_the_outcome_is_the_one_that_is_least_deep(store, output):
    """A step may keep the output of another step in a folder of its own."""
    store.put(f"{JOB}/output/model/a/stepop/outcome.json", b"another")
    store.put(f"{JOB}/output/model/stepop/outcome.json", b"{}")
    assert output.base_uri() == store.uri(f"{JOB}/output/model/stepop")
    assert output.read(output.base_uri() or "", 100) == b"{}"
    assert output.model_uri() == store.uri(f"{JOB}/output/model")


def test_another_layout(store, output):
    store.put(f"{JOB}/output/stepop/outcome.json", b"{}")
    assert output.base_uri() == store.uri(f"{JOB}/output/stepop")


def test_a_large_outcome_is_refused(store, output):
    store.put(f"{JOB}/output/model/stepop/outcome.json", b"x" * 101)
    with pytest.raises(OutcomeLostError, match="has 101 bytes, more than the 100"):
        output.read(output.base_uri() or "", 100)


def test_an_archive(store, output, archived):
    archived(("./stepop/outcome.json", b"{}"), ("stepop/00.bin", b""), ("weights.bin", b"mine"))
    assert output.base_uri() == store.uri(f"{JOB}/output/model/stepop")
    assert sorted(store.list(f"{JOB}/output/model")) == [
        f"{JOB}/output/model/stepop/00.bin",
        f"{JOB}/output/model/stepop/outcome.json",
    ]


def test_a_hostile_archive_writes_only_files_of_the_step(store, output, archived):
    link = tarfile.TarInfo("stepop/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("stepop/hard")
    hard.type, hard.linkname = tarfile.LNKTYPE, "stepop/outcome.json"
    archived(
        ("stepop/../../../parts/x", b"bad"),
        ("../stepop/x", b"bad"),
        ("/stepop/x", b"bad"),
        (link, b""),
        (hard, b""),
        ("stepop/outcome.json", b"{}"),
    )
    assert output.base_uri()
    assert [name for name in store.list("") if "model.tar.gz" not in name] == [
        f"{JOB}/output/model/stepop/outcome.json"
    ]


@pytest.mark.parametrize("limit", ["OWN_FILES", "OWN_BYTES", "MEMBERS"])
def test_an_archive_with_too_much(output, archived, monkeypatch, limit):
    monkeypatch.setattr(archive, limit, 2)
    archived(*((f"stepop/{index}", b"x" * 1) for index in range(3)))
    with pytest.raises(OutcomeLostError, match=r"cannot be unpacked: it holds more than .* CompressionType"):
        output.base_uri()


def test_very_many_members_of_others(output, archived, monkeypatch):
    """They are not the step's, and cost time all the same."""
    monkeypatch.setattr(archive, "MEMBERS", 1000)
    archived(*((f"mine/{index}", b"") for index in range(1001)))
    with pytest.raises(OutcomeLostError, match="it holds more than 1000 files"):
        output.base_uri()


def test_an_archive_that_is_too_large_is_not_read(store, output, archived, monkeypatch):
    archived(("stepop/outcome.json", b"{}"))
    monkeypatch.setattr(archive, "ARCHIVE_BYTES", 10)
    with pytest.raises(
        OutcomeLostError, match=r"cannot be unpacked: it has \d+ B, and at most 10 B are read"
    ):
        output.base_uri()


@pytest.mark.parametrize("name", ["weights.bin", "stepop/outcome.json"])
def test_a_member_that_says_it_is_huge(store, output, name):
    """70 GiB of the step's own, or of another file, are refused before they are unpacked."""
    info = tarfile.TarInfo(name)
    info.size = 70 << 30
    store.put(f"{JOB}/output/model.tar.gz", gzip.compress(info.tobuf() + b"\0" * 4096))
    with pytest.raises(OutcomeLostError, match="cannot be unpacked: it holds more than"):
        output.base_uri()


def test_a_bomb_stops_at_the_limit(store, output, archived, monkeypatch):
    monkeypatch.setattr(archive, "UNPACKED_BYTES", 30 << 20)
    archived(*((f"zeros.{index}", b"\0" * (20 << 20)) for index in range(5)))
    with pytest.raises(OutcomeLostError, match="it holds more than 30 MiB"):
        output.base_uri()


def test_a_large_archive_needs_no_disk(store, output, archived):
    """It is read piece by piece: only one file of the step lies on the disk at a time."""
    archived(("weights.bin", os.urandom(8 << 20)), ("stepop/outcome.json", b"{}"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # Python ignores the signal
    try:
        assert output.base_uri() == store.uri(f"{JOB}/output/model/stepop")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_list_of_holes_that_fills_the_memory(store, output):
    """A sparse file has any number of blocks with its holes."""
    block = b"%011o\0%011o\0" % (1, 1) * 21 + b"\1" + b"\0" * 7
    header = bytearray(tarfile.TarInfo("weights.bin").tobuf(tarfile.GNU_FORMAT)[:512])
    header[156:157], header[482:483], header[148:156] = tarfile.GNUTYPE_SPARSE, b"\1", b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    store.put(f"{JOB}/output/model.tar.gz", gzip.compress(bytes(header) + block * 100_000, 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OutcomeLostError, match="of a header"):
        output.base_uri()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.XGLTYPE])
def test_very_many_headers_of_one_member(store, output, archived, kind):
    headers = []
    for _ in range(5000):
        header = tarfile.TarInfo("x")
        header.type = kind
        headers.append((header, b"10 ab=cde\n" if kind != tarfile.GNUTYPE_LONGNAME else b"y\0"))
    archived(*headers, ("stepop/outcome.json", b"{}"))
    with pytest.raises(OutcomeLostError, match="cannot be unpacked"):
        output.base_uri()


def test_what_members_say_of_all_others_does_not_stay(store, output, archived):
    """Global headers would add up."""
    members = []
    for index in range(120):
        header = tarfile.TarInfo("x")
        header.type = tarfile.XGLTYPE
        text = b" k%d=" % index + b"v" * 500_000 + b"\n"
        text = b"%d" % (len(text) + 6) + text
        members += [(header, text), (f"mine/{index}", b"")]
    archived(*members, ("stepop/outcome.json", b"{}"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert output.base_uri()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 << 10


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_fills_the_memory(store, output, archived, kind):
    """200 MB of header, in 200 kB: it is not read into the memory."""
    header = tarfile.TarInfo("stepop/outcome.json")
    header.type = kind
    archived((header, b"\0" * (200 << 20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(OutcomeLostError, match="cannot be unpacked"):
        output.base_uri()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize("data", [b"", b"no archive", b"\x1f\x8b\x08\x00 torn"])
def test_a_torn_archive(store, output, data):
    store.put(f"{JOB}/output/model.tar.gz", data)
    with pytest.raises(OutcomeLostError, match="cannot be unpacked"):
        output.base_uri()
