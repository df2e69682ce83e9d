"""Classes of the DAG file that register themselves are registered once, as in an ordinary task."""

from __future__ import annotations

import pytest

from tests.support.dag_file import loaded, run_step

DAG = """
import abc, typing

T = typing.TypeVar("T")
BY_NAME, IN_ORDER = {}, []

class Plugin:
    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.__name__ in BY_NAME:
            raise TypeError(f"there are two {cls.__name__}")
        BY_NAME[cls.__name__] = cls

class Csv(Plugin):
    pass

class Json(Plugin):
    pass

class Shape(abc.ABC):
    def __init_subclass__(cls, *, sides):
        cls.sides = sides
        IN_ORDER.append(cls)

class Square(Shape, sides=4):
    pass

class Triangle(Shape, sides=3):
    pass

class Registers(type):
    made = []
    def __new__(cls, name, bases, members, *, tag=None):
        return super().__new__(cls, name, bases, members)
    def __init__(cls, name, bases, members, *, tag=None):
        super().__init__(name, bases, members)
        if name in [kind.__name__ for kind in Registers.made]:
            raise TypeError(f"there are two {name}")
        cls.tag = tag
        Registers.made.append(cls)

class Model(metaclass=Registers, tag="m"):
    pass

class Part(Model, tag="p"):
    __slots__ = ("x",)

class RegistersAbstract(abc.ABCMeta):
    count = 0
    def __init__(cls, *args):
        super().__init__(*args)
        RegistersAbstract.count += 1

class Box(Model, typing.Generic[T], tag="b"):
    pass

class Abstract(metaclass=RegistersAbstract):
    @abc.abstractmethod
    def f(self): ...

class Concrete(Abstract):
    def f(self):
        return 1

def plugins():
    Csv(), Json()
    return [sorted(BY_NAME), BY_NAME["Csv"] is Csv, BY_NAME["Json"] is Json]

def another():
    class Toml(Plugin):
        pass
    return [sorted(BY_NAME), BY_NAME["Toml"] is Toml]

def twice():
    class Csv(Plugin):
        pass

def keywords():
    class Line(Shape, sides=1):
        pass
    return [[kind.__name__, kind.sides] for kind in IN_ORDER]

def metaclasses():
    class Late(Model, tag="l"):
        pass
    Part().x = 1
    assert Box[int].__origin__ is Box and Box.__orig_bases__ == (Model, typing.Generic[T])
    return [[kind.__name__, kind.tag] for kind in Registers.made]

def abstract():
    try:
        Abstract()
    except TypeError:
        return [RegistersAbstract.count, Concrete().f(), isinstance(Concrete(), Abstract)]

def objects():
    return [Csv(), Square(), Part(), Concrete()]
"""


@pytest.fixture
def dag(tmp_path):
    (tmp_path / "my_dag.py").write_text(DAG)
    with loaded(tmp_path / "my_dag.py") as module:
        yield module


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("plugins", [["Csv", "Json"], True, True]),
        ("another", [["Csv", "Json", "Toml"], True]),
        ("keywords", [["Square", 4], ["Triangle", 3], ["Line", 1]]),
        ("metaclasses", [["Model", "m"], ["Part", "p"], ["Box", "b"], ["Late", "l"]]),
        ("abstract", [2, 1, True]),
    ],
)
def test_a_class_is_registered_once(dag, tmp_path, name, value):
    assert run_step(tmp_path / "step", dag, getattr(dag, name)).value() == value


def test_a_second_class_of_the_name_is_still_refused(dag, tmp_path):
    failure = run_step(tmp_path / "step", dag, dag.twice).failure
    assert failure["summary"] == "The step raised TypeError: there are two Csv"


def test_a_result_registers_nothing_in_airflow(dag, tmp_path):
    from airflow_stepop.results import loads

    found = run_step(tmp_path / "step", dag, dag.objects).value(loads)
    assert [type(one) for one in found] == [dag.Csv, dag.Square, dag.Part, dag.Concrete]
    assert sorted(dag.BY_NAME) == ["Csv", "Json"]
    assert [kind.__name__ for kind in dag.IN_ORDER] == ["Square", "Triangle"]
    assert [kind.__name__ for kind in dag.Registers.made] == ["Model", "Part", "Box"]
