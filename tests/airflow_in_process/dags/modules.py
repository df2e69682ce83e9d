"""Steps that use the DAG file's own module, as a ``@task`` can."""

from __future__ import annotations

import concurrent.futures
import enum
import functools
import multiprocessing
import typing
from dataclasses import dataclass

from airflow.sdk import DAG, task


@dataclass
class Item:
    number: int

    @dataclass
    class Part:
        number: int


class Color(enum.Enum):
    def __init__(self, code, shout):
        self.code, self.shout = code, shout

    RED = ("#f00", "RED!")


class Plan(typing.NamedTuple):
    item: Item
    color: Color


@functools.lru_cache
def square(number):
    return number * number


def double(item):
    return Item(2 * item.number)


with DAG("modules"):

    @task
    def from_a_task():
        return 3

    @task.remote_step
    def pools(number):
        found = []
        for method in ("fork", "spawn", "forkserver"):
            context = multiprocessing.get_context(method)
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                found += [item.number for item in pool.map(double, [Item(number)])]
                found += pool.map(square, [number])
        return found

    pools(from_a_task())

    @task.remote_step
    def objects():
        class Made(typing.NamedTuple):
            plan: Plan

        hints = typing.get_type_hints(Made)
        return {
            "plan": Plan(Item(1), Color.RED),
            "part": Item.Part(2),
            "function": double,
            "hint": hints["plan"],
        }

    @task.remote_step
    def in_a_step(found):
        plan = found["plan"]
        return [
            type(plan) is Plan is found["hint"],
            type(found["part"]) is Item.Part,
            found["function"](Item(4)) == Item(8),
            plan.color is Color.RED,
            plan.color.shout,
        ]

    @task
    def in_a_task(found):
        plan = found["plan"]
        return [
            type(plan) is Plan is found["hint"],
            type(found["part"]) is Item.Part,
            found["function"] is double,
            plan.color is Color.RED,
            plan.color.shout,
        ]

    @task.remote_step
    def knows_no_class(found):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.map(str, list(found.values())[:2])

    made = objects()
    in_a_step(made)
    in_a_task(made)
    knows_no_class(made)
