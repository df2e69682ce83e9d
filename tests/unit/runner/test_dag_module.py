"""The DAG file's module exists in the step, under its name, for the step and for its child processes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile

import pytest

from airflow_stepop.results import StepResult, loads
from tests.support.dag_file import loaded, run_step
from tests.support.paths import ROOT

DAG = """
from __future__ import annotations
import concurrent.futures, dataclasses, enum, multiprocessing, os, pickle, sys, threading
from airflow.sdk import DAG  # the step does not have Airflow: it runs without site-packages

COUNT = 0
MODELS = []

def square(x):
    return x * x

def model(cls):
    MODELS.append(cls)
    return cls

@dataclasses.dataclass
class Item:
    x: int
    def double(self):
        return Item(self.x * 2)
    @dataclasses.dataclass
    class Inner:
        x: int

@model
class First:
    pass

class Color(enum.Enum):
    RED = 1

def use(item):
    return item.double().x

def pools(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        mapped = pool.map(square, [1, 2])
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        return mapped + list(executor.map(use, [Item(3), Item(4)]))

def pool_of(method, items):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(str, items)

def pickled():
    first = MODELS[0]
    values = [square, Item(1), Item.Inner(2), Color.RED, first, first()]
    again = pickle.loads(pickle.dumps(values))
    return [again[:5] == values[:5], type(again[5]) is first]

def put(queue):
    queue.put(Item(5))

def queue(method):
    context = multiprocessing.get_context(method)
    items = context.Queue()
    child = context.Process(target=put, args=(items,))
    child.start()
    found = items.get()
    child.join()
    return [found.x, type(found) is Item]

def made_in_the_step():
    @dataclasses.dataclass
    class Made:
        x: dataclasses.InitVar[int]
        y: int = 0
    return [field.name for field in dataclasses.fields(Made)]

def count_up():
    global COUNT
    COUNT += 1

def counted():
    module = sys.modules[__name__]
    count_up()
    module.COUNT += 1
    return [COUNT, module.COUNT, vars(module) is globals()]

def same(item, kind, lam):
    return [type(item) is kind is Item, lam(1) is Item, lam.__globals__ is globals()]

make = lambda x: Item

def missing():
    return getattr(sys.modules[__name__], "MISS" + "ING", None), repr(sys.modules[__name__])

def missing_pickle(data):
    return pickle.loads(data)

def items():
    return [Item(6), Item.Inner(7)]

def result():
    return [Item(6), Item.Inner(7), square, Color.RED, Item]
"""
METHODS = ["fork", "spawn", "forkserver"]
BARE = f"{sys.executable} -S"


@pytest.fixture
def dag_path(tmp_path):
    path = tmp_path / "dags" / "my_dag.py"
    path.parent.mkdir()
    path.write_text(DAG)
    return path


@pytest.fixture
def dag(dag_path):
    with loaded(dag_path) as module:
        yield module


@pytest.mark.parametrize("method", METHODS)
def test_pools(dag, tmp_path, method):
    assert run_step(tmp_path / "step", dag, dag.pools, method, python=BARE).value() == [1, 4, 6, 8]


@pytest.mark.parametrize("method", METHODS)
def test_a_queue_takes_objects_of_the_dag_file(dag, tmp_path, method):
    assert run_step(tmp_path / "step", dag, dag.queue, method).value() == [5, True]


@pytest.mark.parametrize("method", METHODS)
def test_a_child_knows_classes_that_only_an_argument_brings(dag, tmp_path, method):
    items = [dag.Item(1), dag.Item.Inner(2)]
    done = run_step(tmp_path / "step", dag, dag.pool_of, method, items, python=BARE)
    assert done.value() == ["Item(x=1)", "Item.Inner(x=2)"]


def test_pickle_finds_functions_and_classes_by_name(dag, tmp_path):
    assert run_step(tmp_path / "step", dag, dag.pickled).value() == [True, True]


def test_a_class_can_be_made_in_the_step(dag, tmp_path):
    """``dataclasses`` and ``typing`` look into ``sys.modules`` for the module of a class."""
    assert run_step(tmp_path / "step", dag, dag.made_in_the_step).value() == ["y"]


def test_functions_and_the_module_share_their_globals(dag, tmp_path):
    assert run_step(tmp_path / "step", dag, dag.counted).value() == [2, 2, True]


def test_arguments_and_the_function_have_the_same_classes(dag, tmp_path):
    done = run_step(tmp_path / "step", dag, dag.same, dag.Item(1), dag.Item, dag.make)
    assert done.value() == [True, True, True]


def test_what_the_step_does_not_have_is_explained(dag, tmp_path):
    value, text = run_step(tmp_path / "a", dag, dag.missing).value()
    assert (value, text) == (None, "<what the step has of the DAG file my_dag.py>")
    data = f"c{dag.__name__}\nuse\n.".encode()
    failure = run_step(tmp_path / "b", dag, dag.missing_pickle, data).failure
    assert "my_dag.py" in failure["summary"]
    assert "unusual_prefix_" not in failure["summary"]


def test_results_come_back_as_the_worker_s_own(dag, tmp_path):
    item, inner, square, color, kind = run_step(tmp_path / "step", dag, dag.result).value(loads)
    assert (item, inner, square, color) == (dag.Item(6), dag.Item.Inner(7), dag.square, dag.Color.RED)
    assert kind is dag.Item


@pytest.mark.parametrize("method", METHODS)
def test_a_later_step_s_child_knows_the_classes_of_its_arguments(dag, tmp_path, method):
    """The later step names no class of the DAG file. The earlier step's result brings them."""
    earlier = run_step(tmp_path / "earlier", dag, dag.items)
    result = StepResult.signed(earlier.outcome["value"], "")
    later = run_step(tmp_path / "later", dag, dag.pool_of, method, result, python=BARE)
    assert later.value() == ["Item(x=6)", "Item.Inner(x=7)"]


def test_no_file_is_left(dag, tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    env = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    assert run_step(tmp_path / "step", dag, dag.pools, "spawn", env=env).value() == [1, 4, 6, 8]
    assert [path for path in (tmp_path / "tmp").iterdir() if path.name.startswith("stepop-")] == []


SCRIPT = """

if __name__ == "__main__":
    import json
    from pathlib import Path
    from tests.support.dag_file import run_step
    made = run_step(Path(sys.argv[1]), sys.modules["__main__"], globals()[sys.argv[2]], *sys.argv[3:])
    print(json.dumps(made.value()))
"""


def run_script(path, *argv):
    path.write_text(DAG + SCRIPT)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, path, *argv], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("method", METHODS)
def test_a_dag_file_that_runs_as_a_script(dag_path, tmp_path, method):
    assert run_script(dag_path, tmp_path / "step", "pools", method) == [1, 4, 6, 8]


def test_the_step_of_a_script_has_its_names_in_main(dag_path, tmp_path):
    assert run_script(dag_path, tmp_path / "a", "counted") == [2, 2, True]
    assert run_script(dag_path, tmp_path / "b", "pickled") == [True, True]
    assert run_script(dag_path, tmp_path / "c", "made_in_the_step") == ["y"]
    assert run_script(dag_path, tmp_path / "d", "queue", "spawn") == [5, True]


@pytest.mark.parametrize("name", ["my_dag", "folder.my_dag"])
def test_a_dag_file_under_a_plain_name(dag_path, tmp_path, name):
    with loaded(dag_path, name) as dag:
        for method in ("fork", "spawn"):
            assert run_step(tmp_path / method, dag, dag.pools, method).value() == [1, 4, 6, 8]


def test_a_dag_file_of_a_package_that_is_shipped(dag_path, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("shipped/__init__.py", "")
    with loaded(dag_path, "shipped.my_dag") as dag:
        done = run_step(tmp_path / "step", dag, dag.pools, "spawn", archive=archive.getvalue())
    assert done.value() == [1, 4, 6, 8]


def test_a_module_of_the_image_wins_over_a_plain_name(dag_path, tmp_path):
    """A DAG file may be called like a library that the step imports."""
    dag_path.write_text(
        "def f():\n    import this_module as found\n    return [found.x, g()]\ndef g(): return 1\n"
    )
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "this_module.py").write_text("x = 5")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "image")}
    with loaded(dag_path, "this_module") as dag:
        assert run_step(tmp_path / "step", dag, dag.f, env=env).value() == [5, 1]


LOADER = """
import base64, json, sys
from pathlib import Path
from airflow_stepop.results import loads
from tests.support.dag_file import loaded
from contextlib import nullcontext
from types import SimpleNamespace
from airflow.sdk.execution_time.context import set_current_context
data = base64.b64decode(sys.argv[1])
with loaded(Path(sys.argv[2])) if len(sys.argv) > 2 else nullcontext() as dag:
    task = SimpleNamespace(python_callable=getattr(dag, "use", None))
    with set_current_context({"ti": SimpleNamespace(task=task)}) if dag else nullcontext():
        item, inner, square, color, kind = loads(data, [])
    print(json.dumps([
        item.double().x, inner.x, square(3), color.value, type(item) is kind, type(inner) is kind.Inner,
        dag is not None and kind is dag.Item, getattr(kind, "VERSION", 1),
    ]))
"""


def load_elsewhere(done, *path):
    """Load a result in another process."""
    (segment,) = done.outcome["value"]["segments"]
    argv = [sys.executable, "-c", LOADER, segment["data"], *path]
    found = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_results_come_back_to_another_worker(dag, dag_path, tmp_path):
    """The worker has no DAG file, or it has the file at another path, or another version of it."""
    done = run_step(tmp_path / "step", dag, dag.result)
    assert load_elsewhere(done) == [12, 7, 9, 1, True, True, False, 1]
    other = tmp_path / "other" / "my_dag.py"
    other.parent.mkdir()
    other.write_text(DAG)
    assert load_elsewhere(done, other) == [12, 7, 9, 1, True, True, True, 1]
    dag_path.write_text(
        DAG.replace("    x: int\n    def double", "    x: int\n    VERSION = 2\n    def double")
    )
    assert load_elsewhere(done, dag_path) == [12, 7, 9, 1, True, True, True, 2]


HELPERS = """
import multiprocessing

def texts(items):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(str, items)
"""


def test_a_function_of_another_module_gets_the_classes_of_its_arguments(dag, dag_path, tmp_path):
    """The function is imported in the step; the DAG file's module brings the classes alone."""
    helpers = dag_path.with_name("my_helpers.py")
    helpers.write_text(HELPERS)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("my_helpers.py", HELPERS)
    with loaded(helpers, "my_helpers") as module:
        done = run_step(tmp_path / "a", dag, module.texts, [dag.Item(1)], archive=archive.getvalue())
        assert done.value() == ["Item(x=1)"]
        done = run_step(tmp_path / "b", dag, module.texts, [1], archive=archive.getvalue())
        assert done.value() == ["1"]
