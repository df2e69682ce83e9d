"""Every way in which a result reaches another task, in branches of one DAG; each ``check_*`` task asserts.

``results_reader.py`` reads some of them from another DAG.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import os
import pathlib
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar

import pydantic
import results_beside
from airflow.sdk import dag, get_current_context, task

MARKS = os.environ.get("STEPOP_TEST_MARKS", "/nonexistent")
LARGE = 60 * 1024


@dataclass
class Point:
    """A class of the DAG file."""

    x: int
    y: int = 0


class Color(enum.Enum):
    """An enum of the DAG file."""

    RED = "red"
    BLUE = "blue"


class BrokenError(ValueError):
    """An exception class of the DAG file."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code

    def __reduce__(self):
        return BrokenError, (self.code,)


class Score(pydantic.BaseModel):
    """A model of the DAG file."""

    name: str
    value: float = 0.5


@dataclass
class Holder:
    """Airflow renders what is in ``template_fields``."""

    value: Any
    template_fields: ClassVar[tuple[str, ...]] = ("value",)


@dataclass
class Heavy:
    """Large; appends a line to a file wherever it is loaded."""

    name: str
    payload: bytes = field(default=b"", repr=False)

    def __setstate__(self, state):
        self.__dict__.update(state)
        place = "worker" if "airflow.sdk" in sys.modules else "step"
        with open(f"{MARKS}/{self.name}.loaded", "a") as file:
            file.write(f"{place} {os.getpid()}\n")


VALUES = {
    "none": None,
    "text": "grüße \U0001f980",
    "empty": "",
    "number": 3,
    "huge": 10**400,
    "float": 0.1,
    "infinite": math.inf,
    "true": True,
    "bytes": b"\x00\xff",
    "bytearray": bytearray(b"abc"),
    "tuple": (1, (2, "x"), [3]),
    "set": {1, 2},
    "frozenset": frozenset("ab"),
    "int_keys": {1: "one", None: "none"},
    "nested": {"a": [1, {"b": None}], "()": [1]},
    "surrogate": "\ud83e\udd80",
    "complex": 1 + 2j,
    "decimal": decimal.Decimal("0.10"),
    "date": datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC),
    "path": pathlib.PurePosixPath("/a/b"),
    "range": range(3),
    "large_text": "x" * LARGE,
    "large_bytes": b"y" * LARGE,
    "large_list": list(range(20_000)),
    "tree": results_beside.Tree(2),
}


def same(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted), (type(found), type(wanted))
    assert found == wanted


@dag(schedule=None, default_args={"retries": 0})
def results():
    # -- types of values

    @task.remote_step(multiple_outputs=True)
    def values():
        return dict(VALUES)

    @task
    def check_values(**found):
        for name, wanted in VALUES.items():
            same(found[name], wanted)

    @task.remote_step
    def values_as_one():
        return dict(VALUES)

    @task
    def check_values_as_one(found):
        for name, wanted in VALUES.items():
            same(found[name], wanted)

    @task.remote_step
    def check_values_in_a_step(one, **found):
        for name, wanted in VALUES.items():
            same(found[name], wanted)
            same(one[name], wanted)
        return "seen"

    one_by_one, as_one = values(), values_as_one()
    check_values(**{name: one_by_one[name] for name in VALUES})
    check_values_as_one(as_one)
    check_values_in_a_step(as_one, **{name: one_by_one[name] for name in VALUES})

    @task.remote_step
    def none():
        return None

    @task
    def check_none(found):
        assert found is None

    check_none(none())

    @task.remote_step
    def arrays(rows):
        import numpy as np

        return {
            "small": np.arange(6).reshape(2, 3),
            "large": np.ones((rows, 1000)),
            "many": [np.zeros(3), "x"],
        }

    @task
    def check_arrays(found):
        assert found["small"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["large"].sum() == 100_000
        for array in (found["small"], found["large"], found["many"][0]):
            array[0] = 7  # writable

    @task.remote_step
    def array():
        import numpy as np

        return np.zeros((100, 100))

    @task
    def check_array(found):
        found[0, 0] = 1
        assert found.sum() == 1

    @task.remote_step
    def check_array_in_a_step(found, all_of_them):
        found[0, 0] = 1
        all_of_them["large"][0, 0] = 1
        assert found.sum() == 1

    zeros, every_array = array(), arrays(100)
    check_arrays(every_array)
    check_array(zeros)
    check_array_in_a_step(zeros, every_array)

    @task.remote_step
    def tables():
        import pandas as pd
        import pyarrow as pa

        frame = pd.DataFrame({"a": range(10_000), "b": ["x"] * 10_000, "c": pd.Categorical(["u"] * 10_000)})
        return {"frame": frame, "table": pa.table({"a": [1, 2, None]}), "series": frame["a"]}

    @task.remote_step
    def table():
        import pyarrow as pa

        return pa.table({"a": list(range(50_000)), "b": ["x"] * 50_000})

    @task
    def check_tables(found, arrow):
        assert found["frame"].shape == (10_000, 3)
        assert str(found["frame"]["c"].dtype) == "category"
        found["frame"].loc[0, "a"] = 5
        assert found["table"].to_pylist() == [{"a": 1}, {"a": 2}, {"a": None}]
        assert arrow.num_rows == 50_000
        assert type(arrow).__name__ == "Table"

    @task.remote_step
    def check_tables_in_a_step(found, arrow):
        assert found["series"].sum() == found["frame"]["a"].sum()
        assert arrow.column("a")[49_999].as_py() == 49_999

    frames, arrow = tables(), table()
    check_tables(frames, arrow)
    check_tables_in_a_step(frames, arrow)

    # -- classes

    @task.remote_step
    def classes(point, color):
        assert isinstance(point, Point)
        assert color is Color.BLUE
        return {
            "point": Point(point.x, 2),
            "color": Color.RED,
            "error": BrokenError(3),
            "score": Score(name="auc"),
            "tree": results_beside.plant(3),
            "type": Point,
        }

    @task
    def check_classes(found):
        assert isinstance(found["point"], Point)
        assert found["point"] == Point(1, 2)
        assert found["color"] is Color.RED
        assert isinstance(found["error"], BrokenError)
        assert found["error"].code == 3
        assert isinstance(found["score"], Score)
        assert found["score"] == Score(name="auc")
        assert isinstance(found["tree"], results_beside.Tree)
        assert found["type"] is Point

    @task.remote_step
    def check_classes_in_a_step(found, point):
        assert isinstance(found["point"], Point)
        assert isinstance(point, Point)
        assert found["color"] is Color.RED
        assert isinstance(found["error"], BrokenError)
        assert isinstance(found["score"], Score)
        assert isinstance(found["tree"], results_beside.Tree)

    made = classes(Point(1), Color.BLUE)
    check_classes(made)
    check_classes_in_a_step(made, Point(5))

    # -- where references may be

    @task.remote_step
    def point(x):
        return Point(x)

    @task
    def check_nested(a_list, a_dict, holder):
        assert a_list == [1, [Point(1)], (Point(2),)]
        assert a_dict == {"deep": {"er": Point(1)}}
        assert holder.value == [Point(2)]

    @task.remote_step
    def check_nested_in_a_step(a_list, a_dict, holder, *more, **named):
        assert a_list == [1, [Point(1)], (Point(2),)]
        assert a_dict == {"deep": {"er": Point(1)}}
        assert holder.value == [Point(2)]
        assert more == (Point(1), Point(1))
        assert named == {"last": Point(2)}

    first, second = point.override(task_id="first")(1), point.override(task_id="second")(2)
    nested = ([1, [first], (second,)], {"deep": {"er": first}})
    check_nested(*nested, Holder([second]))
    check_nested_in_a_step(*nested, Holder([second]), first, first, last=second)

    @task.remote_step(multiple_outputs=True)
    def outputs():
        return {"small": 1, "point": Point(3), "large": Heavy("outputs", b"h" * LARGE), "none": None}

    @task
    def check_outputs(small, point, large, none, everything):
        assert (small, point, none) == (1, Point(3), None)
        assert len(large.payload) == LARGE
        assert everything["point"] == Point(3)

    @task.remote_step
    def check_outputs_in_a_step(small, large, everything):
        assert (small, len(large.payload)) == (1, LARGE)
        assert everything["point"] == Point(3)
        return everything["small"]

    parts = outputs()
    check_outputs(parts["small"], parts["point"], parts["large"], parts["none"], parts)
    check_outputs_in_a_step(parts["small"], parts["large"], parts)

    @task
    def check_pulled():
        ti = get_current_context()["ti"]
        assert ti.xcom_pull(task_ids="first") == Point(1)
        assert ti.xcom_pull(task_ids=["first", "second"]) == [Point(1), Point(2)]
        assert ti.xcom_pull(task_ids="outputs", key="point") == Point(3)

    [first, second, parts] >> check_pulled()

    # -- mapped tasks

    @task
    def check_partial(point, factor):
        assert point == Point(1)
        assert factor in (10, 20)

    @task.remote_step
    def scale(point, factor):
        return Point(point.x * factor)

    check_partial.partial(point=first).expand(factor=[10, 20])
    scaled = scale.partial(point=first).expand(factor=[10, 20])

    @task
    def check_aggregated(points):
        assert list(points) == [Point(10), Point(20)]
        assert points[1] == Point(20)
        assert len(points) == 2

    @task.remote_step
    def check_aggregated_in_a_step(points, wrapped):
        assert list(points) == [Point(10), Point(20)]
        assert list(wrapped["points"]) == [Point(10), Point(20)]
        return len(points)

    check_aggregated(scaled)
    check_aggregated_in_a_step(scaled, {"points": scaled})

    @task.remote_step
    def numbers():
        return [1, 2, 3]

    @task.remote_step
    def points():
        return [Point(1), Heavy("listed", b"l" * LARGE), Point(3)]

    @task
    def check_number(number):
        assert number in (1, 2, 3)

    @task
    def check_item(item):
        assert isinstance(item, (Point, Heavy))

    @task.remote_step
    def check_item_in_a_step(item, number=0):
        assert isinstance(item, (int, Point, Heavy))
        return item if isinstance(item, int) else type(item).__name__

    listed, objects = numbers(), points()
    check_number.expand(number=listed)
    check_item.expand(item=objects)
    check_item_in_a_step.expand(item=listed)
    check_item_in_a_step.override(task_id="check_object_in_a_step").expand(item=objects)

    @task.remote_step
    def mapping():
        return {"a": 1, "b": Point(2)}

    @task
    def check_mapping(pair):
        assert pair in (("a", 1), ("b", Point(2)))

    @task.remote_step
    def check_mapping_in_a_step(pair):
        assert tuple(pair) in (("a", 1), ("b", Point(2)))

    pairs = mapping()
    check_mapping.expand(pair=pairs)
    check_mapping_in_a_step.expand(pair=pairs)

    @task.remote_step
    def jobs():
        return [{"item": 1, "number": 1}, {"item": Point(2), "number": 2}]

    queue = jobs()
    check_item_in_a_step.override(task_id="check_kwargs_in_a_step").expand_kwargs(queue)

    @task
    def check_kwargs(item, number):
        assert (item, number) in ((1, 1), (Point(2), 2))

    check_kwargs.expand_kwargs(queue)

    @task
    def check_mapped_over_function(item):
        assert item in (2, 4, 6)

    check_mapped_over_function.expand(item=listed.map(lambda number: number * 2))

    @task.remote_step
    def empty():
        return []

    @task.remote_step
    def never(item):
        raise AssertionError(item)

    never.expand(item=empty())

    # -- the triggerer

    # a slow worker may use up a try of Airflow's (decision 0005)
    @task.remote_step(deferrable=True, retries=3, retry_delay=timedelta(seconds=1))
    def deferred(point, *others, run_id, text):
        assert run_id.startswith("manual__")
        return Point(point.x + 1), text

    @task.remote_step(deferrable=True, multiple_outputs=True, retries=3, retry_delay=timedelta(seconds=1))
    def deferred_outputs(point):
        return {"point": point, "text": "x"}

    @task
    def check_deferred(found, point, text):
        assert found == (Point(2), text)
        assert point == Point(1)

    deferred_parts = deferred_outputs(first)
    check_deferred(
        deferred(first, parts["large"], second, text="x"), deferred_parts["point"], deferred_parts["text"]
    )

    # -- what must not happen

    @task.remote_step(do_xcom_push=False)
    def dropped():
        return Heavy("dropped", b"d" * LARGE)

    dropped()

    @task.remote_step
    def heavy():
        return Heavy("heavy", b"v" * LARGE)

    @task.remote_step
    def check_heavy_in_a_step(found, again):
        assert found.payload == b"v" * LARGE
        assert again[0].name == "heavy"

    load = heavy()
    check_heavy_in_a_step(load, [load])


results()
