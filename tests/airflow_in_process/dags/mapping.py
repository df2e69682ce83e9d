"""Tasks that are mapped over what a step returned, be it a list or not."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

from airflow.sdk import DAG, task, task_group
from airflow.sdk.definitions.context import get_current_context

Pair = namedtuple("Pair", "a b")


class Model:
    """Airflow cannot map over it."""


with DAG("mapping", schedule=None, default_args={"retries": 0}):

    @task
    def each(item):
        return item

    def array():
        import numpy as np

        return np.zeros((3, 2))

    def frame():
        import pandas as pd

        return pd.DataFrame({"a": [1, 2], "b": [3, 4]})

    def odd_set():
        return {3, 1, 2}

    def model():
        return Model()

    def text():
        return "abc"

    def data():
        return b"abc"

    def numbers_as_keys():
        return {1: "a", 2: "b"}

    def generator():
        return (number for number in range(3))

    def nothing():
        return None

    def a_tuple():
        return 1, 2

    def a_pair():
        return Pair(1, "b")

    def ordered():
        return OrderedDict(b=1, a=2)

    for function in (array, frame, odd_set, model, text, data, numbers_as_keys, generator, nothing):
        each.override(task_id=f"each_{function.__name__}").expand(item=task.remote_step(function)())

    for function in (a_tuple, a_pair, ordered):
        each.override(task_id=f"each_{function.__name__}").expand(item=task.remote_step(function)())
        again = f"ordinary_{function.__name__}"
        each.override(task_id=f"each_{again}").expand(item=task(function, task_id=again)())

    @task_group
    def group(item):
        each.override(task_id="one")(item)

    two = task.remote_step(task_id="array_for_two")(array)()
    group.expand(item=two)
    task.remote_step(task_id="in_a_step")(lambda item: item).expand(item=two)

    @task.remote_step
    def mapped(number):
        import numpy as np

        return np.full(2, number)

    @task
    def count(items):
        index = get_current_context()["ti"].map_index
        assert list(items) == [index, index]

    count.expand(items=mapped.expand(number=[0, 1]))
