"""A folder that has the name of our job, and is not the folder of our job."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.job import JobState
from airflow_stepop.testing import make_step
from tests.support.local_jobs import Bench, prepared


def test_a_lookup_leaves_the_job_of_another_alone(bench: Bench) -> None:
    """The other job has not started yet, and a lookup withdraws its own job only."""
    mine = bench.step(["true"])
    other = make_step(["true"], name=mine.spec.name)
    folder = prepared(bench, other)
    assert bench.hook.lookup(mine.spec) is None
    assert folder.path.exists()
    with pytest.raises(StepConfigError, match="another nonce"):
        bench.submit(mine)
    assert not (folder.path / "start").exists()
    assert bench.hook.lookup(other.spec) is None
    assert not folder.path.exists(), "its own lookup withdraws it"


@pytest.mark.parametrize("has_request", [False, True])
def test_a_folder_elsewhere_is_no_job_without_its_request(
    bench: Bench, tmp_path: Path, has_request: bool
) -> None:
    """A handle names the folder of its job. What is no job of this nonce there is not deleted."""
    handle, _ = bench.run(bench.step(["true"]))
    nonce = bench.steps[0].spec.nonce
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(
        bench.folder / handle.id,
        elsewhere / handle.id,
        ignore=shutil.ignore_patterns("wake"),  # a pipe
    )
    if not has_request:
        (elsewhere / handle.id / "request.json").unlink()
    there = replace(handle, detail={"folder": str(elsewhere)}, nonce=nonce)
    assert bench.status(there).state is (JobState.SUCCEEDED if has_request else JobState.GONE)
    bench.hook.cancel(there)
    bench.hook.delete(there)
    assert (elsewhere / handle.id).exists() is not has_request
