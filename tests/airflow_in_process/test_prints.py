"""What a step prints reaches the task log, bounded and harmless, whoever waits for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]

WAYS = ("waiting", "deferred")


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(
        Path(__file__).parent / "dags" / "prints.py", env={"AIRFLOW__STEPOP__LOG_LIMIT": "1MB"}
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_flood_leaves_its_beginning_and_its_end(run, way):
    """A hundred megabytes of output become one or two of log; the last line is there."""
    run.assert_state(f"flood_{way}")
    log = run.log(f"flood_{way}")
    assert len(log) < 4_000_000
    assert "line 0000000 of a log" in log
    full, title, last = (
        log.index(text) for text in ("log_limit", "The last 200 lines", "the very last line")
    )
    assert full < title < last
    assert log[title:last].count("of a log that nobody") == 199


@pytest.mark.parametrize("way", WAYS)
def test_one_line_says_that_the_job_was_submitted(run, way):
    """It comes before the step's own lines, and has a time before theirs."""
    log = run.log(f"odd_{way}")
    assert re.search(r"Submitted: local job s-\S+ \([0-9.]+ KiB\)", log)
    assert "Submitting" not in log
    lines = log.splitlines()
    times = [re.search(r"\d{4}-\d\d-\d\dT[0-9:.]+", line) for line in lines]
    (said,) = (at for at, line in enumerate(lines) if "Submitted: " in line)
    (first,) = (at for at, line in enumerate(lines) if "a line of ten megabytes" in line)
    assert said < first
    assert times[said][0] < times[first][0]


@pytest.mark.parametrize("way", WAYS)
def test_a_backend_without_a_console_pushes_no_link(run, way):
    assert "_link_StepLink" not in run.xcoms[f"odd_{way}"]


@pytest.mark.parametrize("way", WAYS)
def test_odd_output_is_shown(run, way):
    """Each line is one line, whatever is in it; the last state of a progress bar stays."""
    run.assert_state(f"odd_{way}")
    log = run.log(f"odd_{way}")
    assert re.search(r"a line of ten megabytes: x{16000,16384} \[stepop: 9\.\d+ MiB of this line", log)
    assert "not utf-8: \N{REPLACEMENT CHARACTER}" in log
    assert "and nothing moves" in log
    assert "\x1b[2K" not in log
    assert "nul ␀ and bell ␇" in log
    assert "separators \N{REPLACEMENT CHARACTER} and \N{REPLACEMENT CHARACTER} and ␌" in log
    assert f"100%|{'#' * 50}|" in log
    assert log.count("%|") < 5
    assert "no end of line" in log


@pytest.mark.parametrize("way", WAYS)
def test_a_failure_ends_with_the_last_lines(run, way):
    """Its message can go into any log, mail or database."""
    text = run.error(f"fails_{way}")["cause"]["text"]
    assert "\x00" not in text
    assert "\x1b[2J" not in text
    assert "last words" in text
    assert len(text) < 100_000


@pytest.mark.parametrize("way", WAYS)
def test_nothing_at_all(run, way):
    run.assert_state(f"silent_{way}")
    assert run.value(f"silent_{way}") == "done"
