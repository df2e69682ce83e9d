"""The call key: equal for the same call in any process, different when anything of it changed."""

# ruff: noqa: E501 - programs in one line

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import types
import weakref
from itertools import pairwise
from typing import Any

import pytest

from airflow_stepop.payload.code_key import code_key

BASE = '''
import math
from dataclasses import dataclass
FACTOR = 2
TABLE = {"a": [1, 2], "b": {3, 4, 5}}
NAMES = frozenset({"x", "y", "z"})
@dataclass
class Point:
    x: int
    y: int = 0
    def norm(self):
        return abs(self.x)
def helper(x, scale=FACTOR):
    return x * scale
def step(a, b=1, *rest, c=2, **more):
    """Train."""
    inner = lambda value: value + FACTOR
    if a in {"p", "q", "r"}:
        return {name: helper(a) for name in NAMES}
    return inner(helper(a)) + math.sqrt(b) + Point(a).norm() + len(TABLE)
'''


def load(source: str, file: str = "dag.py") -> Any:
    """Return the step of a module made from ``source``."""
    module = sys.modules["dag_module"] = types.ModuleType("dag_module")
    try:
        exec(compile(textwrap.dedent(source), file, "exec"), vars(module))
    finally:
        del sys.modules["dag_module"]
    return module.step


def key_of(source: str) -> str:
    return code_key(load(source))


def changed(old: str, new: str) -> str:
    assert old in BASE
    return BASE.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("inner = lambda", "\n\n    # a comment\n    inner = lambda"),
        ("import math", "\n\n\nimport math"),
        ("FACTOR = 2", "FACTOR = 2  # two"),
        ("def helper", "UNUSED = 5\ndef unused():\n    return 1\ndef helper"),
        ("return x * scale", "return (\n        x * scale\n    )"),
    ],
)
def test_layout_does_not_change_the_key(old, new):
    """Comments, line numbers, and what the step does not use."""
    assert key_of(changed(old, new)) == key_of(BASE)


def test_the_place_of_the_file_does_not_change_the_key():
    assert code_key(load(BASE, "/releases/1/dag.py")) == code_key(load(BASE, "/releases/2/dag.py"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("value + FACTOR", "value - FACTOR"),
        ("len(TABLE)", "len(NAMES)"),
        ("b=1", "b=2"),
        ("c=2", "c=3"),
        ("c=2", "d=2"),
        ("FACTOR = 2", "FACTOR = 3"),
        ("FACTOR = 2", "FACTOR = 2.0"),
        ("[1, 2]", "[1, 3]"),
        ('"b": {3, 4, 5}', '"b": {3, 4, 6}'),
        ('"y", "z"', '"y", "w"'),
        ("return x * scale", "return x + scale"),
        ("scale=FACTOR", "scale=7"),
        ("abs(self.x)", "abs(self.y)"),
        ("y: int = 0", "y: int = 1"),
        ("y: int = 0", "y: int = 0\n    z: int = 0"),
        ("class Point:", "class Point(Exception):"),
        ("abs(self.x)", "abs(self.x + 1 + 0)"),
        ('"q", "r"', '"q", "s"'),
        ("math.sqrt", "math.exp"),
        ("import math", "import cmath as math"),
    ],
)
def test_what_the_step_does_changes_the_key(old, new):
    """Code, constants, defaults, globals, helpers, classes: at any depth."""
    assert key_of(changed(old, new)) != key_of(BASE)


@pytest.mark.parametrize(
    "source",
    [
        "def make(n):\n    def step(): return n\n    return step\nstep = make({})",
        "def make(n):\n    return lambda: n\nstep = make({})",
        "import functools\ndef base(n): return n\nstep = functools.partial(base, {})",
        "class C:\n    def __init__(self, n): self.n = n\n    def __call__(self): return self.n\nstep = C({})",
        "class C:\n    def __init__(self, n): self.n = n\n    def go(self): return self.n\nstep = C({}).go",
        "import functools\ndef note(f):\n    @functools.wraps(f)\n    def inner(): return f()\n    return inner\n"
        "@note\ndef step(): return {}",
        "class C:\n    @property\n    def p(self): return {}\ndef step(): return C().p",
        "class C:\n    table = [1, {}]\ndef step(): return C.table",
        "class B:\n    def p(self): return {}\nclass C(B): pass\ndef step(): return C().p()",
        "def deep(): return {}\ndef d1(): return deep()\ndef d2(): return d1()\ndef d3(): return d2()\n"
        "def d4(): return d3()\ndef d5(): return d4()\ndef d6(): return d5()\ndef d7(): return d6()\n"
        "def d8(): return d7()\ndef d9(): return d8()\ndef step(): return d9()",
        "table = {{'a': [[[[[[[[[[{}]]]]]]]]]]}}\ndef step(): return table",
        "import pathlib\nP = pathlib.PurePosixPath('/data/{}')\ndef step(): return P",
        "import datetime\nD = datetime.date(2024, 1, 1 + {})\ndef step(): return D",
        "import enum\nclass E(enum.Enum):\n    A = {}\ndef step(): return E.A",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nCONF = P({})\ndef step(): return CONF",
        "import re\nR = re.compile('a{}')\ndef step(): return R",
        "def step():\n    def inner():\n        return {}\n    return inner()",
        "async def step(): return {}",
        "def step():\n    yield {}",
        "NAN = float('nan') if {} == 1 else 0.0\ndef step(): return NAN",
    ],
)
def test_every_kind_of_callable_is_looked_into(source):
    filled = [source.replace("{{", "\0").replace("}}", "\1").replace("{}", number) for number in "12"]
    one, two = (key_of(text.replace("\0", "{").replace("\1", "}")) for text in filled)
    assert one != two
    again = filled[0].replace("\0", "{").replace("\1", "}")
    assert key_of(again) == one


def test_recursion_ends():
    assert key_of("def step(n): return step(n - 1)") == key_of("def step(n): return step(n - 1)")
    mutual = "def even(n): return odd(n - 1)\ndef odd(n): return even(n - 1)\nstep = even"
    assert key_of(mutual) == key_of(mutual)
    assert key_of(mutual.replace("odd(n - 1)", "odd(n - 2)")) != key_of(mutual)
    cycle = "table = {}\ntable['self'] = table\ndef step(): return table"
    assert key_of(cycle) == key_of(cycle)


def test_key_is_the_same_in_every_process(tmp_path):
    """Whatever the hash seed: sets and frozensets are constants of the code, too."""
    (tmp_path / "keyed.py").write_text(BASE)
    program = (
        "import keyed; from airflow_stepop.payload.code_key import code_key; print(code_key(keyed.step))"
    )
    seen = []
    for seed in ("0", "1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-B", "-c", program]
        seen.append(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
    assert all(one == other for one, other in pairwise(seen)), seen


def test_a_call_before_does_not_change_the_key():
    """The interpreter rewrites the bytecode of functions that ran often."""
    step = load("def step(a):\n    return sum(i * a for i in range(a))")
    before = code_key(step)
    for _ in range(5_000):
        step(3)
    assert code_key(step) == before


def test_key_does_not_depend_on_the_name_of_the_dag_module():
    """Airflow makes it from the path of the DAG file, and a new release of a bundle has a new path."""
    keys = set()
    for name in ("unusual_prefix_1_dag", "unusual_prefix_2_dag"):
        module = types.ModuleType(name)
        exec("def helper(x): return x\nclass C:\n    x = 1\ndef step(a): return helper(C.x)", vars(module))
        keys.add(code_key(module.step, name))
    assert len(keys) == 1


def test_modules_of_others_count_by_name():
    """The code archive and the image say what is in them."""
    import json

    module = types.ModuleType("dag_module")
    vars(module).update(json=json, loads=json.loads, Decoder=json.JSONDecoder)
    exec("def step(a): return loads(a, cls=Decoder) or json.dumps", vars(module))
    assert code_key(module.step) == code_key(module.step)


@pytest.mark.parametrize(
    "value",
    [threading.Lock(), sys.stdout, (n for n in ()), object(), iter([1]), memoryview(b"a"), weakref.ref(int)],
)
def test_what_cannot_be_taken_apart_counts_by_its_type(value):
    module = types.ModuleType("dag_module")
    module.value = value
    exec("def step(): return value", vars(module))
    assert code_key(module.step) == code_key(module.step)


HIDDEN = """
from __future__ import annotations
import enum, functools
LIMIT = 5
class Leaf:
    x: int = 1
class Color(enum.Enum):
    def __new__(cls, value, label):
        made = object.__new__(cls)
        made._value_, made.label = value, label
        return made
    RED = 1, "red"
@functools.cache
def cached(x):
    return x + 1
class Lazy:
    @functools.cached_property
    def value(self):
        return 2
def step(a):
    class Inner:
        leaf: Leaf
        limit = LIMIT
    return Color.RED.label, cached(a), Lazy().value, Inner
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x: int = 1", "x: int = 3"),
        ('"red"', '"crimson"'),
        ("x + 1", "x + 3"),
        ("functools.cache\n", "functools.lru_cache(3)\n"),
        ("return 2", "return 3"),
        ("LIMIT = 5", "LIMIT = 3"),
    ],
)
def test_key_counts_what_cached_functions_enums_and_annotations_refer_to(old, new):
    assert old in HIDDEN
    assert key_of(HIDDEN) == key_of(HIDDEN)
    assert key_of(HIDDEN) != key_of(HIDDEN.replace(old, new))
