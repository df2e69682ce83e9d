"""Results with types that JSON does not have, and results that an ordinary task cannot load."""

from __future__ import annotations

import datetime
import decimal
import math
import pathlib
import uuid
from http import HTTPStatus
from typing import Any

from airflow.sdk import dag, get_current_context, task

TYPED: dict[str, Any] = {
    "on": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    "for": datetime.timedelta(hours=1),
    "price": decimal.Decimal("0.10"),
    "id": uuid.UUID(int=7),
    "path": pathlib.PurePosixPath("/a/b"),
    "status": HTTPStatus.OK,
    "tags": {"b", "a"},
    "pair": (1, "x"),
    "by_class": {0: 0.5, 1: 0.75},
}


@dag(schedule=None, default_args={"retries": 0})
def returned():
    @task.remote_step
    def metrics():
        import numpy as np

        return {"auc": np.float64(0.93), "n": np.int64(3), "f": np.float32(0.5), "plain": 1.5}

    @task
    def check_metrics(found):
        import numpy as np

        assert {name: type(value) for name, value in found.items()} == {
            "auc": np.float64,
            "n": np.int64,
            "f": np.float32,
            "plain": float,
        }
        assert found["auc"] == 0.93

    measured = metrics()
    check_metrics(measured)

    @task.remote_step
    def typed():
        return dict(TYPED)

    @task
    def check_typed(found):
        assert {k: (type(v), v) for k, v in found.items()} == {k: (type(v), v) for k, v in TYPED.items()}

    @task.remote_step
    def check_typed_in_a_step(found):
        assert {k: (type(v), v) for k, v in found.items()} == {k: (type(v), v) for k, v in TYPED.items()}

    check_typed(typed())
    check_typed_in_a_step(TYPED)

    # -- numbers that Airflow cannot show

    @task.remote_step
    def odd():
        return {"loss": float("nan"), "history": [1.0, float("inf")], "seed": 2**70}

    @task
    def check_odd(found, named, more=0):
        for one in (found, named):
            assert math.isnan(one["loss"])
            assert one["history"] == [1.0, math.inf]
            assert one["seed"] == 2**70
        assert more == 1

    @task.remote_step
    def check_odd_in_a_step(found):
        assert math.isnan(found["loss"])

    numbers = odd()
    check_odd(numbers, named=numbers, more=1)
    check_odd_in_a_step(numbers)

    # -- mapped

    @task.remote_step
    def several():
        import numpy as np

        return [np.float64(0.5), 1, {"a": 1}]

    @task
    def check_several(one):
        index = get_current_context()["ti"].map_index
        assert type(one).__name__ == ("float64", "int", "dict")[index]

    check_several.expand(one=several())

    # -- what cannot be loaded

    @task.remote_step
    def model():
        with open("only_in_the_step.py", "w") as file:
            file.write("class Forest:\n    pass\n")
        import only_in_the_step

        return {"auc": 0.5, "model": only_in_the_step.Forest()}

    @task
    def read_by_name(trained):
        raise AssertionError

    @task
    def read_by_place(first, *rest, trained=None):
        raise AssertionError

    @task
    def read_inside(where):
        get_current_context()["ti"].xcom_pull(where)

    @task
    def read_mapped(trained, number):
        raise AssertionError

    @task.remote_step
    def read_in_a_step(trained):
        raise AssertionError

    forest = model()
    read_by_name(trained=forest)
    read_by_place(1, [forest])
    forest >> read_inside("model")
    read_mapped.partial(trained=forest).expand(number=[1])
    read_in_a_step(forest)

    # -- what is said

    @task.remote_step
    def frame():
        import pandas as pd

        return pd.DataFrame({"a": range(2000), "b": [0.5] * 2000})

    @task.remote_step
    def views(view):
        assert view == memoryview(b"abc")
        return {"view": view, "numbers": memoryview(bytearray(16)).cast("d")}

    @task
    def check_views(found):
        assert found["view"] == memoryview(b"abc")
        assert (found["numbers"].format, found["numbers"].readonly) == ("d", False)

    @task
    def show(text):
        assert text == "0.93"

    frame()
    check_views(views(memoryview(b"abc")))
    measured >> show("{{ ti.xcom_pull('metrics')['auc'] }}")


returned()
