"""A step that runs out of memory asks for more at its next try, up to a cap."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]

MIB = 2**20


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(Path(__file__).parent / "dags" / "memory.py")


@pytest.mark.parametrize(
    ("task", "state", "tries", "asked_mib"),
    [
        ("once", "success", 2, 512),
        ("twice", "success", 3, 512),
        ("capped", "failed", 3, 512),
        ("fails", "failed", 1, 128),
        ("no_more_tries", "failed", 2, 141),
        ("mapped[0]", "success", 1, 128),
        ("mapped[1]", "success", 2, 512),
    ],
)
def test_each_try_asks_for_more(run, task, state, tries, asked_mib):
    run.assert_state(task, state)
    assert run.tries(task) == tries
    assert run.xcoms[task]["usage"]["asked"] == {"memory_bytes": asked_mib * MIB}


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("once", "nothing yet: the next try asks for 512 MiB (on_oom)"),
        (
            "once",
            "The last try ran out of memory with 128 MiB: this try asks for 512 MiB (on_oom: at most 1 GiB)",
        ),
        (
            "twice",
            "ran out of memory with 256 MiB: this try asks for 512 MiB (on_oom: at most 512 MiB)",
        ),
        ("twice", "the next try asks for 512 MiB"),
        ("capped", "it had 512 MiB, which is the cap of on_oom; raise the cap"),
        ("no_more_tries", "no try is left that could ask for 156 MiB (on_oom); raise retries"),
        ("fails", "of memory, its limit is 128 MiB; it was killed"),
        (
            "fails",
            'ResourceSettings(memory=...); on_oom=MoreMemory(cap="256MiB") lets the next try ask for more',
        ),
    ],
)
def test_the_log_says_so(run, task, text):
    assert text in run.log(task)
