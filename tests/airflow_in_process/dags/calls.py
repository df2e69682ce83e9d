"""Every kind of function and argument that can be sent, and those that cannot."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import calls_beside
from airflow.sdk import DAG, task
from calls_package import leaf
from calls_space.inner import deep

FACTOR = 3


@dataclass
class Options:
    """An argument's class, defined in the DAG file."""

    rate: float
    layers: tuple[int, ...] = (1, 2)

    def scaled(self) -> float:
        return self.rate * FACTOR


@dataclass
class Box:
    """Airflow does not look inside for outputs of other tasks."""

    value: Any


def helper(number):
    return number * FACTOR


def countdown(number):
    return [number, *countdown(number - 1)] if number else []


def make_adder(amount):
    def add(number):
        return number + amount

    return add


with DAG("calls", schedule=None, default_args={"retries": 0}, params={"depth": 4, "name": "x"}):

    @task.remote_step
    def globals_and_helpers(options):
        import calls_late

        made = [helper(2), options.scaled(), countdown(3), calls_beside.twice(4), leaf.name(), deep.value()]
        add = lambda x: x + FACTOR  # noqa: E731 - the point of it
        return [*made, calls_late.late(), add(1), calls_beside.__file__]

    globals_and_helpers(Options(0.5))

    @task.remote_step
    def parameters(a, b=2, *rest, c, d=4, **more):
        return [a, b, list(rest), c, d, more]

    parameters.override(task_id="parameters_few")(1, c=3)
    parameters.override(task_id="parameters_all")(1, 20, 30, 40, c=50, d=60, e=70, f=None)

    @task.remote_step
    async def coroutine(number):
        await asyncio.sleep(0)
        return number + 1

    coroutine(1)

    task.remote_step(make_adder(5), task_id="closure")(1)
    task.remote_step(lambda number: number - FACTOR, task_id="a_lambda")(10)
    task.remote_step(calls_beside.thrice, task_id="by_reference")(2)
    task.remote_step(leaf.relative, task_id="by_reference_in_a_package")()

    @task.remote_step
    def functions_as_arguments(function, partial, method):
        return [function(2), partial(), method()]

    functions_as_arguments(helper, functools.partial(make_adder(1), 1), Options(1.0).scaled)

    @task.remote_step
    def portable_context(ds, params, run_id, logical_date, ts_nodash, given="default"):
        assert logical_date.date().isoformat() == ds
        return [ds, params, run_id, ts_nodash, given]

    portable_context()

    def times(logical_date, data_interval_start, data_interval_end, partition_date):
        """Say what the times of the context are: as text, since an ordinary task shall say the same."""
        found = [logical_date, data_interval_start, data_interval_end, partition_date]
        names = [
            f"{type(one).__module__}.{type(one).__name__} {getattr(one, 'timezone_name', '')}"
            for one in found
        ]
        return [*names, logical_date.add(days=1).to_iso8601_string(), (logical_date - logical_date).in_days()]

    task.remote_step(times, task_id="times_of_a_step")()
    task(times, task_id="times_of_a_task")()

    @task.remote_step
    def first_run(
        prev_start_date_success,
        prev_end_date_success,
        prev_data_interval_start_success,
        prev_data_interval_end_success,
        prev_given=1,
    ):
        return [
            prev_start_date_success,
            prev_end_date_success,
            prev_data_interval_start_success,
            prev_data_interval_end_success,
        ]

    first_run()

    @task.remote_step
    def returns_a_time(logical_date):
        return logical_date

    @task
    def takes_a_time(value, logical_date=None):
        return value == logical_date

    takes_a_time(returns_a_time())

    @task.remote_step
    def promises_a_dict() -> dict[str, int]:
        return None

    @task.remote_step
    def promises_a_mapping() -> Mapping[str, float]:
        return None

    @task.remote_step(multiple_outputs=True)
    def says_multiple_outputs():
        return None

    @task.remote_step
    def keeps_its_promise() -> dict[str, int]:
        return {"a": 1}

    for promise in (promises_a_dict, promises_a_mapping, says_multiple_outputs, keeps_its_promise):
        promise()

    @task.remote_step
    def folder():
        return sorted(os.listdir("."))

    folder.override(task_id="included", include=["calls_data/*.csv", "calls_sql"])()
    folder.override(task_id="included_missing", include=["calls_date"])()
    folder.override(task_id="included_outside", include=["../secrets"])()

    @task.remote_step(env={"ANSWER": "{{ params.depth }}", "NUMBER": 42})
    def environment():
        return [
            os.environ["ANSWER"],
            os.environ["NUMBER"],
            {
                n: os.environ[n] == os.environ["STEPOP_WORK"] + "/.airflow"
                for n in os.environ
                if n[:7] == "AIRFLOW"
            },
        ]

    environment()

    # -- refused

    def refused(name, argument, **options):
        @task.remote_step(task_id=name, **options)
        def take(data, other=None):
            return None

        take(argument)

    @task
    def ordinary():
        return 1

    refused("a_generator", (n for n in range(3)))
    refused("an_open_file", open(os.devnull))  # noqa: SIM115
    refused("a_lock", threading.Lock())
    refused("a_socket_in_a_dict", {"deep": [socket.socket()]})
    refused("a_thread", threading.Thread())
    refused("an_output_in_an_object", Box(ordinary()))

    lock = threading.Lock()

    @task.remote_step
    def refers_to_a_lock():
        with lock:
            return 1

    refers_to_a_lock()

    for context_name in (
        "ti",
        "dag_run",
        "task",
        "dag",
        "task_instance",
        "macros",
        "conn",
        "var",
        "outlet_events",
    ):
        namespace: dict[str, Any] = {}
        exec(f"def wants({context_name}): return 1", namespace)
        task.remote_step(namespace["wants"], task_id=f"wants_{context_name}")()
