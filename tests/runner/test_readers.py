"""What a step prints is in a pipe until somebody reads it, and its process ends only then."""

from __future__ import annotations

import subprocess
import time

import pytest

from airflow_stepop.runner import protocol
from airflow_stepop.runner.frames import from_lines
from airflow_stepop.runner.readers import LIMIT_S

KEY = bytes(range(32))
PRINTS = "def f():\n    print('x' * 50_000)\n    return 'y' * 20_000\n"


@pytest.fixture
def started(folder):
    """Start the runner, and read nothing of what it prints."""
    processes = []

    def start(**options):
        argv = folder.reference(PRINTS, "f").argv(**options)
        processes.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_the_process_ends_when_its_lines_are_read(folder, started):
    process = started()
    receipt, end = folder.path / "receipt", time.monotonic() + 60
    while not receipt.exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(1)
    assert process.poll() is None
    assert process.stdout.read(50_001) == b"x" * 50_000 + b"\n"
    assert process.wait(LIMIT_S / 2) == protocol.EXIT_OK


def test_a_reader_that_has_died_is_not_waited_for(started):
    process = started()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) is not None


def test_nobody_reads_at_all(started):
    """Then the process ends all the same."""
    began = time.monotonic()
    assert started().wait(60) == protocol.EXIT_OK
    assert time.monotonic() - began > LIMIT_S


def test_an_outcome_in_the_lines_is_read_before_the_end(folder, started):
    (folder.path / "in" / protocol.FRAMES).write_bytes(KEY)
    process = started(receipt_limit="1000")
    lines = process.stdout.read().decode().splitlines()
    assert process.wait(60) == protocol.EXIT_OK
    data = from_lines(lines, KEY)
    assert data == (folder.path / "out" / protocol.OUTCOME).read_bytes()
