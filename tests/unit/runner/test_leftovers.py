"""What a step leaves running in its process neither delays nor changes the outcome."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.lifecycle.options import thread_grace_s
from airflow_stepop.runner import protocol
from tests.support.processes import printed, started

# body of the step, and the names in the log
LEFT = {
    "thread": (
        "threading.Thread(target=threading.Event().wait, name='pump').start()",
        "thread 'pump'",
    ),
    "timer": ("one = threading.Timer(3600, print); one.name = 'later'; one.start()", "thread 'later'"),
    "pool": (
        "KEPT.append(ThreadPoolExecutor(2)); KEPT[0].submit(threading.Event().wait)",
        "thread",
    ),
    "process": (
        "FORK.Process(target=threading.Event().wait, name='worker').start()",
        "process 'worker'",
    ),
    "pool of processes": (
        "KEPT.append(ProcessPoolExecutor(1, FORK)); KEPT[0].submit(time.sleep, 3600)",
        "process 'ForkProcess-1'",
    ),
    "several": (
        "[threading.Thread(target=threading.Event().wait, name=f't{n}').start() for n in range(9)]",
        "thread 't0', thread 't1', thread 't2', thread 't3', thread 't4'",
    ),
}
SOURCE = """
import multiprocessing, threading, time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
FORK, KEPT = multiprocessing.get_context("fork"), []
def f():
    {body}
    {end}
"""


@pytest.mark.parametrize("left", LEFT)
def test_a_step_ends_though_its_threads_do_not(folder, edge_python, left):
    body, names = LEFT[left]
    folder.reference(SOURCE.format(body=body, end="return 'the value'"), "f")
    done = folder.run(edge_python, env={**os.environ, protocol.ENV_THREAD_GRACE: "0.1"})
    assert done.value() == "the value"
    assert done.code == protocol.EXIT_OK
    first, last = done.stderr.splitlines()
    assert first.startswith("stepop: the step has ended; waiting up to 0.1 s (thread_grace) for its ")
    assert names in first
    assert last == "stepop: thread_grace is over; stopping what still runs"


def test_a_coroutine_ends_though_its_executor_does_not(folder, edge_python):
    source = """
import asyncio, threading
async def f():
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    await asyncio.get_running_loop().run_in_executor(None, abs, -1)
    return "the value"
"""
    done = folder.reference(source, "f").run(
        edge_python, env={**os.environ, protocol.ENV_THREAD_GRACE: "0.1"}
    )
    assert done.value() == "the value"
    assert done.stderr.startswith(
        "stepop: the step has ended; waiting up to 0.1 s (thread_grace) for its thread"
    )


def test_a_failed_step_ends_as_well(folder):
    folder.reference(SOURCE.format(body=LEFT["thread"][0], end="raise ValueError('x')"), "f")
    done = folder.run(env={**os.environ, protocol.ENV_THREAD_GRACE: "0"})
    assert done.failure["summary"] == "The step raised ValueError: x"


def test_the_outcome_is_there_and_the_thread_is_named_before_the_wait(folder, tmp_path):
    """A thread that ends within the grace period is waited for."""
    source = SOURCE.format(body="threading.Thread(target=wait, name='pump').start()", end="return 1")
    source += f"""
def wait():
    import os, time
    while not os.path.exists({str(tmp_path / "end")!r}):
        time.sleep(0.01)
    os.write(1, b'the thread has ended\\n')
"""
    argv = folder.reference(source, "f").argv()
    env = {**os.environ, protocol.ENV_THREAD_GRACE: "3600"}
    with started(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        line = "waiting up to 3600 s (thread_grace) for its thread 'pump'\n"
        assert process.stderr.readline() == f"stepop: the step has ended; {line}"
        assert json.loads((folder.path / "out" / protocol.OUTCOME).read_bytes())["status"] == "success"
        (tmp_path / "end").touch()
        stdout, stderr = printed(process)
    assert (stdout, stderr) == ("the thread has ended\n", "")
    assert folder.finished(process.returncode).value() == 1


@pytest.mark.parametrize(
    "body",
    [
        "KEPT.append(ThreadPoolExecutor(2)); KEPT[0].submit(abs, -1).result()",
        "KEPT.append(ProcessPoolExecutor(1, FORK)); KEPT[0].submit(abs, -1).result()",
        "threading.Thread(target=threading.Event().wait, daemon=True).start()",
    ],
)
def test_idle_pools_and_daemons_are_not_waited_for(folder, edge_python, body):
    folder.reference(SOURCE.format(body=body, end="return 1"), "f")
    done = folder.run(edge_python, env={**os.environ, protocol.ENV_THREAD_GRACE: "3600"})
    assert done.value() == 1


def test_exit_handlers_run_after_the_wait(folder):
    body = f"{LEFT['thread'][0]}; import atexit; atexit.register(print, 'handled')"
    folder.reference(SOURCE.format(body=body, end="return 1"), "f")
    assert folder.run(env={**os.environ, protocol.ENV_THREAD_GRACE: "0"}).stdout == "handled\n"


@pytest.mark.parametrize(
    "body",
    [
        "sys.stdout.close()",
        "sys.stderr.close()",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout.detach()",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = object()",
        "sys.stdout.buffer.close()",
        "print('x', end=''); os.close(1)",
    ],
)
def test_streams_that_the_step_has_closed(folder, edge_python, body):
    done = folder.reference(f"import os, sys\ndef f():\n    {body}\n    return 1\n", "f").run(edge_python)
    assert (done.value(), done.stderr) == (1, "")


def test_an_exit_handler_that_fails_is_named_even_if_a_stream_is_closed(folder):
    body = "atexit.register(lambda: 1 / 0); sys.stdout.close(); return 1"
    source = f"import atexit, sys\ndef f():\n    {body}\n"
    done = folder.reference(source, "f").run()
    assert done.value() == 1
    assert "ZeroDivisionError" in done.stderr
    assert "ValueError" not in done.stderr


@pytest.mark.parametrize(("text", "found_s"), [(None, 10), ("", 10), ("0", 0), ("2.5", 2.5)])
def test_the_option(monkeypatch, text, found_s):
    if text is not None:
        monkeypatch.setenv("AIRFLOW__STEPOP__THREAD_GRACE", text)
    assert thread_grace_s() == found_s


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "10s"])
def test_a_wrong_option(monkeypatch, text):
    monkeypatch.setenv("AIRFLOW__STEPOP__THREAD_GRACE", text)
    with pytest.raises(
        StepConfigError, match=r"^\[stepop\] thread_grace must be seconds, 0 or more, and this is"
    ):
        thread_grace_s()
