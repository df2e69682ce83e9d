"""Every way in which a step can fail; nothing of it may take the worker along."""

from __future__ import annotations

import os
import sys
import time

import failures_beside
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException


class OwnError(Exception):
    """An exception class of the DAG file."""

    def __init__(self, code, *, reason):
        super().__init__(code, reason)
        self.code = code


class ForeignError(Exception):
    """Holds what cannot be pickled."""

    def __init__(self):
        super().__init__("holds a lock", open(os.devnull))  # noqa: SIM115


class SilentError(Exception):
    """Cannot even say what it is."""

    def __str__(self):
        raise RuntimeError("no words")


class Skipped(Exception):  # noqa: N818 - it is what it looks like
    """Named like nothing of Airflow's."""


def deep(number):
    if number == 0:
        raise ValueError("the bottom")
    deep(number - 1)


with DAG("failures", schedule=None, default_args={"retries": 0}):

    @task.remote_step
    def builtin():
        deep(3)

    @task.remote_step
    def with_cause():
        try:
            deep(0)
        except ValueError as error:
            raise KeyError("wrapped") from error

    @task.remote_step
    def own():
        raise OwnError(7, reason="because")

    @task.remote_step
    def beside():
        failures_beside.check(-1)

    @task.remote_step
    def of_a_library():
        import json

        json.loads("{")

    @task.remote_step
    def foreign():
        raise ForeignError

    @task.remote_step
    def silent():
        raise SilentError

    @task.remote_step
    def skip():
        raise AirflowSkipException("nothing to do")

    @task.remote_step(retries=3)
    def fail():
        raise AirflowFailException("never again")

    @task.remote_step
    def skip_without_airflow():
        """An image without Airflow: a class of that name is enough."""

        class AirflowSkipException(Exception):  # noqa: N818
            pass

        raise AirflowSkipException("told by name")

    @task.remote_step
    def group():
        raise ExceptionGroup("two", [ValueError("one of them"), TypeError("the other")])

    @task.remote_step
    def system_exit():
        sys.exit(3)

    @task.remote_step
    def system_exit_with_text():
        sys.exit("the reason")

    @task.remote_step
    def interrupt():
        raise KeyboardInterrupt

    @task.remote_step
    def hard_exit():
        print("last words", flush=True)
        os._exit(3)

    @task.remote_step
    def abort():
        os.abort()

    @task.remote_step
    def killed():
        os.kill(os.getpid(), 9)

    @task.remote_step
    def returns_a_lock():
        import threading

        return {"deep": threading.Lock()}

    @task.remote_step
    def returns_a_generator():
        yield 1

    @task.remote_step(multiple_outputs=True)
    def no_dict():
        return [1]

    @task.remote_step
    def closes_stdout():
        os.close(1)
        os.close(2)
        sys.stdout = None
        return "closed"

    @task.remote_step
    def prints_strange_things():
        sys.stdout.buffer.write(b"\xff\xfe broken \x00 bytes\n")
        print("\x1b[31mred\x1b[0m", "x" * 100_000)
        sys.stdout.write("no line end")
        return "printed"

    @task.remote_step
    def leaves_children():
        for _ in range(2):
            if os.fork() == 0:
                time.sleep(600)
                os._exit(0)
        return os.getpid()

    @task.remote_step(timeout=8)
    def too_long():
        print("started", flush=True)
        time.sleep(600)

    @task.remote_step
    def missing_module():
        import no_such_module  # noqa: F401

    @task.remote_step
    def long_message():
        raise ValueError("x" * 1_000_000)

    @task.remote_step
    def recursion():
        def again():
            again()

        again()

    @task.remote_step(retry_delay=0.1)
    def kept_retry():
        raise ValueError("my own fault")

    for step in (
        builtin,
        with_cause,
        own,
        beside,
        of_a_library,
        foreign,
        silent,
        skip,
        fail,
        skip_without_airflow,
        group,
        system_exit,
        system_exit_with_text,
        interrupt,
        hard_exit,
        abort,
        killed,
        returns_a_lock,
        returns_a_generator,
        no_dict,
        closes_stdout,
        prints_strange_things,
        leaves_children,
        too_long,
        missing_module,
        long_message,
        recursion,
        kept_retry,
    ):
        step()
