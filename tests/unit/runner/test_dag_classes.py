"""Classes of the DAG file: the host gets its own class back, and works without it, too."""

from __future__ import annotations

import dataclasses
import enum
import io
import pickle
import sys
import types

import pytest

DAG = "unusual_prefix_0123_dag"

SOURCE = """
import dataclasses, enum
import pydantic

class Plain:
    def __init__(self, x): self.x = x
    def double(self): return Plain(self.x * 2)

@dataclasses.dataclass(frozen=True)
class Data:
    x: int
    class Inner(enum.IntEnum):
        ONE = 1

class Color(enum.Enum):
    RED = "red"
    @property
    def shout(self): return self.value.upper()

class Model(pydantic.BaseModel):
    x: int
    color: Color = Color.RED

class Problem(ValueError):
    def __init__(self, code): super().__init__(code); self.code = code

def plain(): return Plain(1).double()
def data(): return Data(2)
def inner(): return Data.Inner.ONE
def color(): return {Color.RED: [Color.RED]}
def model(): return Model(x=3)
def problem(): return Problem(4)
def a_class(): return Plain
def local():
    class Local: x = 5
    return Local()
def use(value): return [type(value) is Plain, isinstance(value, Plain)]
"""


@pytest.fixture
def dag():
    """The DAG file, imported under the name that Airflow gives it, and pickled by value."""
    import cloudpickle

    module = types.ModuleType(DAG)
    sys.modules[DAG] = module
    exec(compile(SOURCE, "dag.py", "exec"), module.__dict__)
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)
    sys.modules.pop(DAG, None)


def loads(data, buffers):
    class HostUnpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return super().find_class(module.replace("stepop_runner", "airflow_stepop.runner", 1), name)

    return HostUnpickler(io.BytesIO(data), buffers=buffers).load()


def test_host_gets_its_own_classes(dag, new_folder):
    """What a step returns is an instance of the class that the rest of the DAG file uses."""
    assert new_folder().function(dag.plain).run().value(loads).__class__ is dag.Plain
    assert new_folder().function(dag.data).run().value(loads) == dag.Data(2)
    assert new_folder().function(dag.inner).run().value(loads) is dag.Data.Inner.ONE
    assert new_folder().function(dag.color).run().value(loads) == {dag.Color.RED: [dag.Color.RED]}
    assert new_folder().function(dag.model).run().value(loads) == dag.Model(x=3)
    problem = new_folder().function(dag.problem).run().value(loads)
    assert type(problem) is dag.Problem
    assert problem.code == 4
    assert new_folder().function(dag.a_class).run().value(loads) is dag.Plain
    assert type(new_folder().function(dag.local).run().value(loads)).x == 5


def test_without_the_dag_file(dag, new_folder):
    """Where the DAG file is not loaded, the copy inside the pickle serves."""
    finished = {
        name: new_folder().function(getattr(dag, name)).run() for name in ("plain", "data", "color", "model")
    }
    del sys.modules[DAG]
    assert finished["plain"].value(loads).double().x == 4
    data = finished["data"].value(loads)
    assert dataclasses.asdict(data) == {"x": 2}
    (color,) = finished["color"].value(loads)
    assert isinstance(color, enum.Enum)
    assert color.shout == "RED"
    assert finished["model"].value(loads).model_dump()["x"] == 3


def test_result_of_an_earlier_step(dag, new_folder):
    """In a later step, a result has the class that came with that step's function."""
    first = new_folder().function(dag.plain).run()
    later = new_folder().function(dag.use)
    later.set(args=[first.outcome["value"]])
    assert later.run().value() == [True, True]
