"""What a step prints is in a pipe until somebody reads it, and its process ends only then."""

from __future__ import annotations

import subprocess
import time
from contextlib import ExitStack

import pytest

from airflow_stepop.runner import protocol
from airflow_stepop.runner.drain import LIMIT_S
from airflow_stepop.runner.frames import from_lines
from tests.support.processes import ended, started
from tests.support.waiting import wait_until

KEY = bytes(range(32))
PRINTS = "def f():\n    print('x' * 50_000)\n    return 'y' * 20_000\n"


@pytest.fixture
def start(folder):
    """Return how to start the runner; nothing reads what it prints."""
    with ExitStack() as stack:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        yield lambda **options: stack.enter_context(
            started(folder.reference(PRINTS, "f").argv(**options), **pipes)
        )


def test_the_process_ends_when_its_lines_are_read(folder, start):
    process = start()
    wait_until((folder.path / "receipt").exists, "the step to end")
    time.sleep(1)  # nothing happens; on a slower machine less of it
    assert process.poll() is None
    assert process.stdout.read(50_001) == b"x" * 50_000 + b"\n"
    assert ended(process) == protocol.EXIT_OK


def test_a_slow_reader_is_given_time_for_what_it_has_read(folder, start):
    """It may have to hand it on: a container runtime forgets what it still has when the process has ended."""
    process = start()
    lines = process.stdout.read(10_000)
    wait_until((folder.path / "receipt").exists, "the step to end")
    time.sleep(2)  # the reader is slow: on a slower machine it is slower, and is given more time
    lines += process.stdout.read(40_001)
    began = time.monotonic()
    assert ended(process) == protocol.EXIT_OK
    assert time.monotonic() - began > 1.5
    assert lines == b"x" * 50_000 + b"\n"


def test_a_reader_that_hands_on_what_it_has_read_is_given_time(folder):
    """Although nothing is left to read."""
    began = time.monotonic()
    assert folder.reference(PRINTS, "f").run(linger="3").code == protocol.EXIT_OK
    assert time.monotonic() - began > 3


def test_a_reader_that_has_died_is_not_waited_for(start):
    process = start()
    process.stdout.close()
    process.stderr.close()
    assert ended(process) is not None


def test_nobody_reads_at_all(start):
    """Then the process ends all the same."""
    began = time.monotonic()
    assert ended(start()) == protocol.EXIT_OK
    assert time.monotonic() - began > LIMIT_S


def test_an_outcome_in_the_lines_is_read_before_the_end(folder, start):
    (folder.path / "in" / protocol.FRAMES).write_bytes(KEY)
    process = start(receipt_limit="1000")
    lines = process.stdout.read().decode().splitlines()
    assert ended(process) == protocol.EXIT_OK
    data = from_lines(lines, KEY)
    assert data == (folder.path / "out" / protocol.OUTCOME).read_bytes()
