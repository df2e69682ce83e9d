"""A result that was changed after its step wrote it is refused before anything of it is unpickled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.corpus, pytest.mark.once, pytest.mark.timeout(900)]

SIGNED = "the reference was not signed by this deployment"
REFUSED = {
    "flipped": r"does not have the SHA-256 \w+ that was recorded",
    "truncated": r"bytes",
    "extended": r"bytes",
    "replaced": r"does not have the SHA-256 \w+ that was recorded",
    "removed": r"No such file|NoSuchKey",
    "swapped": r"does not have the SHA-256 \w+ that was recorded",
    "edited_entry": SIGNED,
    "edited_place": SIGNED,
    "edited_base_uri": SIGNED,
    "unsigned": SIGNED,
    "unsigned_large": SIGNED,
    "outside": SIGNED,
    "climbing": SIGNED,
    "damaged_data": r"does not have the SHA-256 0+ that was recorded",
    "unknown_codec": "yaml",
    "newer_version": "written by a newer airflow-stepop",
}


@pytest.fixture(scope="module")
def run(airflow_process, place):
    return airflow_process.run(Path(__file__).parent / "dags" / "integrity.py", place=place)


def is_harmless(run, case):
    """Of an object that several values share, only the bytes are read that a reference names."""
    return run.place.kind != "folder" and case == "extended"


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("reader", ["here", "there"])
def test_a_changed_result_is_refused(run, case, reader):
    """Here in an ordinary task, there in a remote step."""
    run.assert_state(f"{case}_made")
    run.assert_state(f"{case}_tampered")
    if is_harmless(run, case):
        run.assert_state(f"{case}_{reader}")
        return
    error = run.error(f"{case}_{reader}")
    assert re.search(REFUSED[case], error["text"]), error


@pytest.mark.parametrize("case", sorted({*REFUSED} - {"swapped"} | {"swapped_owner", "swapped_other"}))
def test_nothing_of_a_changed_result_is_loaded(run, case):
    assert (run.place.marks / f"{case}.exploded").exists() == is_harmless(run, case)


@pytest.mark.parametrize("reader", ["here", "there"])
def test_an_untouched_result_is_loaded(run, reader):
    """And so the marks would have been seen."""
    run.assert_state(f"untouched_{reader}")
    assert (run.place.marks / "untouched.exploded").exists()


@pytest.mark.parametrize("reader", ["here", "there"])
def test_data_needs_no_signature(run, reader):
    """Reading bytes, JSON, numpy or Arrow runs nobody's code."""
    assert run.value(f"unsigned_data_{reader}") == "b'data'"
