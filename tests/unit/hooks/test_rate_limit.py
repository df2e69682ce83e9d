"""One limit for all processes of a host. The processes are real, and some are killed."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
import time

import pytest

from airflow_stepop.hooks.base import RateLimit
from tests.support.waiting import wait_until

CALLS = """
import json, sys, time
from airflow_stepop.hooks.common.rate_limit import RateLimit
limit = RateLimit("create", {per_s}, {burst})
began = time.monotonic()
for _ in range({count}):
    limit.wait()
print(json.dumps([began, time.monotonic()]))
"""
HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(3600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    return tmp_path


def stored(home):
    (path,) = (home / "stepop" / "rates").iterdir()
    return path


@pytest.fixture
def start():
    """Return a function that starts a program. Whatever still runs is killed after the test."""
    processes = []

    def run(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return processes[-1]

    yield run
    for process in processes:
        with process:
            process.kill()


@pytest.fixture
def holder(start, home):
    """Return a function that starts a process, which takes the lock of the limit and keeps it."""

    def run():
        process = start(HOLD, stored(home))
        assert process.stdout.readline() == "held\n"
        return process

    return run


def test_all_processes_share_the_limit(start):
    per_s, burst, count = 40.0, 3, 8
    code = CALLS.format(per_s=per_s, burst=burst, count=count)
    processes = [start(code) for _ in range(3)]
    times = [json.loads(process.communicate()[0]) for process in processes]
    took_s = max(end for _, end in times) - min(begin for begin, _ in times)
    assert took_s >= (3 * count - burst) / per_s


def test_threads_share_the_limit():
    """Each has an object of its own, as two hooks of one process have."""
    began = time.monotonic()
    threads = [threading.Thread(target=RateLimit("create", 50.0).wait) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 9 / 50


def test_a_burst_after_a_pause():
    limit = RateLimit("create", 0.001, burst=3)
    assert [limit._take() <= 0 for _ in range(4)] == [True, True, True, False]
    assert RateLimit("list", 0.001)._take() <= 0, "another name is another limit"
    assert 0 < RateLimit("create", 0.001, burst=3)._take() <= 1000


def test_a_killed_process_that_held_the_lock(holder):
    limit = RateLimit("create", 1000.0)
    limit.wait()
    process = holder()
    process.kill()
    process.wait()
    limit.wait()


def test_processes_that_were_killed_while_they_waited(start):
    """They had no turn yet. So they delay nobody, however many they were."""
    limit = RateLimit("create", 0.001)
    limit.wait()
    processes = [start(f"print(flush=True)\n{CALLS.format(per_s=0.001, burst=1, count=9)}") for _ in range(3)]
    for process in processes:
        process.stdout.readline()
    first_s = limit._take()
    for process in processes:
        process.kill()
        process.wait()
    assert limit._take() <= first_s <= 1000


def test_a_stopped_process_that_holds_the_lock_delays_nobody_for_long(holder):
    """A container may be frozen at any moment. The limit then holds within each process."""
    limit = RateLimit("create", 0.001)
    assert limit._take() <= 0
    process = holder()
    process.send_signal(signal.SIGSTOP)
    assert limit._take() <= 0
    assert limit._take() > 0
    process.kill()
    process.wait()
    assert wait_until(limit._take, "the lock to be free", holds=lambda pause_s: pause_s > 0)


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"half", struct.pack("<d", math.inf), struct.pack("<d", math.nan), struct.pack("<d", 1e18),
     struct.pack("<d", -math.inf), struct.pack("<d", 0.0), b"\xff" * 4096],
)  # fmt: skip
def test_a_file_of_an_earlier_boot_or_a_damaged_one(home, data):
    """The monotonic clock begins anew at a reboot. The time in the file may then lie far in the future."""
    limit = RateLimit("create", 0.001)
    limit.wait()
    stored(home).write_bytes(data)
    assert limit._take() <= 0
    assert 0 < limit._take() <= 1000


def test_a_file_that_cannot_be_written(home):
    """The limit then holds within this process."""
    (home / "stepop").write_text("a file where the folder should be")
    limit = RateLimit("create", 0.001, burst=2)
    assert [limit._take() <= 0 for _ in range(3)] == [True, True, False]


def test_the_lock_is_not_held_while_a_process_waits(home):
    limit = RateLimit("create", 0.001)
    limit.wait()
    thread = threading.Thread(target=limit.wait, daemon=True)
    thread.start()
    file = os.open(stored(home), os.O_RDWR)

    def is_free():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        fcntl.flock(file, fcntl.LOCK_UN)
        return True

    wait_until(is_free, "the lock to be free")
    os.close(file)
