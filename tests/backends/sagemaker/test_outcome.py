"""The outcome in the job's output: each layout, and archives that somebody has forged."""

from __future__ import annotations

import io
import resource
import tarfile
from collections.abc import Callable

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.hooks.sagemaker import outcome
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


@pytest.mark.parametrize("limit", ["UNPACKED_FILES", "UNPACKED_BYTES"])
def test_an_archive_with_too_much(output, archived, monkeypatch, limit):
    monkeypatch.setattr(outcome, limit, 2)
    archived(*((f"stepop/{index}", b"x" * 1) for index in range(3)))
    with pytest.raises(OutcomeLostError, match=r"cannot be unpacked: it holds more than"):
        output.base_uri()


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
