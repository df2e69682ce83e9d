"""What a function of the DAG file uses comes along: globals that are hard to see, enums, cached helpers."""

from __future__ import annotations

import sys

import pytest

from airflow_stepop.results import loads
from tests.support.dag_file import loaded, run_step

NAMES = """
from __future__ import annotations
import concurrent.futures, dataclasses, decimal, email.mime.text, functools, importlib.metadata, sys
import threading
import typing
import xml.dom.minidom as dom, xml.etree.ElementTree
import no_such_package
from no_such_package import Missing, Other
from airflow.sdk import Context

LIMIT = 5
SCALE = 3
LOCK = threading.Lock()  # cannot be pickled
FACTOR = 7

@dataclasses.dataclass
class Leaf:
    x: int

@dataclasses.dataclass
class Tree:
    leaf: Leaf
    more: typing.Optional[list[Leaf]] = None
    when: decimal.Decimal | None = None

class Service:
    def call(self):
        return LOCK

Leaves = list[Leaf]

def submodule_in_inner_function():
    def inner():
        return concurrent.futures.ThreadPoolExecutor(1).submit(len, "ab").result()
    return inner()

def submodule_in_lambda():
    return (lambda: xml.etree.ElementTree.fromstring("<a/>").tag)()

def submodule_in_class():
    class Mail:
        kind = email.mime.text.MIMEText
    return Mail.kind("x").get_payload()

def submodule_in_comprehension():
    return [importlib.metadata.PackageNotFoundError.__name__ for _ in range(2)]

def class_body():
    class A:
        limit = LIMIT
        class B:
            scale = [SCALE * i for i in range(2)] + [SCALE]
        FACTOR = 1
        factor = FACTOR
        def f(self):
            return LIMIT
    return [A.limit, A.B.scale, A.factor, A().f()]

def hints_of_an_inner_class():
    class A:
        leaf: Leaf
        leaves: typing.Optional[Leaves]
        text: "typing.Mapping[str, Leaf]"
    hints = typing.get_type_hints(A)
    return [hints["leaf"] is Leaf, str(hints["leaves"]).count("Leaf"), str(hints["text"]).count("Leaf")]

def hints_of_an_inner_function():
    def g(a: Leaf, *, b: Tree = None) -> decimal.Decimal: ...
    hints = typing.get_type_hints(g)
    return [hints["a"] is Leaf, hints["b"] is Tree, hints["return"] is decimal.Decimal]

def helper(leaf: Leaf) -> None: ...

def hints_of_a_global():
    return [typing.get_type_hints(helper)["leaf"] is Leaf, typing.get_type_hints(Tree)["leaf"] is Leaf,
            str(typing.get_type_hints(Tree)).count("Decimal")]

def model():
    import pydantic
    class Model(pydantic.BaseModel):
        leaf: Leaf
        amount: decimal.Decimal
    return str(Model(leaf={"x": 1}, amount="1.5").amount + 1)

def by_text():
    return [eval("LIMIT + SCALE"), globals()["helper"].__name__, eval("Leaf(LIMIT).x")]

class Frame:
    def query(self, text):
        return {"x": sys._getframe(1).f_globals[text.partition("@")[2]]}

def by_query():
    return Frame().query("scale > @SCALE")

def texts_are_no_names():
    found = sorted(name for name in globals() if name.isupper())
    return [globals()["helper"].__name__, found, "LIMIT x", "@SCALE"]

def harmless(a: Missing, b: no_such_package.C, c: Context, d: Service, e: "LOCK") -> Other:
    return a + LIMIT

@functools.lru_cache(maxsize=8)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

@functools.cache
def scaled(x):
    return x * SCALE

class Cached:
    @functools.cached_property
    def value(self):
        return LIMIT
    @staticmethod
    @functools.lru_cache
    def twice(x):
        return 2 * x
    @functools.singledispatchmethod
    def of(self, x):
        return "any"
    @of.register
    def _(self, x: int):
        return "int"

@functools.singledispatch
def kind(x):
    return "any"

@kind.register(Leaf)
def _leaf(x):
    return "leaf"

def cached():
    cached = Cached()
    assert cached.value is cached.value
    return [fib(20), fib.cache_info().misses, fib.cache_parameters()["maxsize"], scaled(2),
            scaled.__wrapped__(2), cached.value, Cached.twice(4), kind(Leaf(1)), kind(1), cached.of(1),
            cached.of("")]

def cached_in_a_pool(method):
    import multiprocessing
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(scaled, [1, 2])

def call(f, x):
    return [f(x), f is scaled]

def local_cache():
    @functools.cache
    def g(x):
        return x + 1
    return g

def broken():
    return typing.cast(typing.Any, scaled)
"""

RESULTS = {
    "submodule_in_inner_function": 2,
    "submodule_in_lambda": "a",
    "submodule_in_class": "x",
    "submodule_in_comprehension": ["PackageNotFoundError"] * 2,
    "class_body": [5, [0, 3, 3], 1, 5],
    "hints_of_an_inner_class": [True, 1, 1],
    "hints_of_an_inner_function": [True, True, True],
    "hints_of_a_global": [True, True, 1],
    "model": "2.5",
    "by_text": [8, "helper", 5],
    "by_query": {"x": 3},
    "texts_are_no_names": ["helper", [], "LIMIT x", "@SCALE"],
    "cached": [6765, 21, 8, 6, 6, 5, 8, "leaf", "any", "int", "any"],
}

ENUMS = """
import dataclasses, datetime, enum

class Planet(enum.Enum):
    EARTH = (5.97e24, 6.37e6)
    MARS = (6.4e23, 3.39e6)
    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius
    @property
    def density(self):
        return self.mass / self.radius

class Coordinate(bytes, enum.Enum):
    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made
    X = (0, "x axis")
    Y = (1, "y axis")

class Answer(enum.Enum):
    def __new__(cls, value, *others):
        made = object.__new__(cls)
        made._value_ = value
        for other in others:
            cls._value2member_map_[other] = made
        return made
    YES = "yes", "y", "oui"
    NO = "no", "n"

class Word(str, enum.Enum):
    A = "a"
    SAME = "a"
    def __str__(self):
        return self.name

class Access(enum.Flag):
    READ = 1
    WRITE = 2
    BOTH = READ | WRITE

class Day(datetime.date, enum.Enum):
    FIRST = 2020, 1, 2

@dataclasses.dataclass
class Size:
    x: int
    unit: str = "m"

class Sized(Size, enum.Enum):
    SMALL = 1
    LARGE = 2, "km"

class Way(enum.Enum):
    UP = 1
    DOWN = 2
    @classmethod
    def _missing_(cls, value):
        return cls.UP

Way.UP.other, Way.DOWN.other = Way.DOWN, Way.UP

class Labelled(enum.Enum):
    def __init__(self, label):
        self.label = label

class Level(Labelled):
    LOW = "low"

def facts(planet, access):
    return [
        planet is Planet.EARTH, planet.radius, planet.density == Planet.EARTH.mass / 6.37e6,
        Coordinate.Y.label, Coordinate.Y == b"\\x01", Coordinate(1) is Coordinate.Y,
        Answer("oui") is Answer.YES, Answer("n").name,
        Word.SAME is Word.A, list(Word.__members__), str(Word.A), Word.A + "b",
        access is Access.BOTH, Access["BOTH"].name, (Access.READ | Access.WRITE).name, (~Access.READ).name,
        Day.FIRST.isoformat(), Sized.LARGE.unit, Sized.SMALL.x,
        Way.UP.other.name, Way(99).name, Level.LOW.label,
    ]

def all_of_them():
    return [Planet.EARTH, Coordinate.Y, Answer.YES, Access.BOTH, Way.UP, Level.LOW, Planet]
"""


@pytest.fixture
def dag(tmp_path):
    """Return a function that loads a DAG file."""
    (tmp_path / "dags").mkdir()
    path = tmp_path / "dags" / "my_dag.py"

    def write(text):
        path.write_text(text)
        return loaded(path)

    return write


@pytest.fixture
def names(dag, tmp_path, monkeypatch):
    """A DAG file that uses a package which the step does not have."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "no_such_package.py").write_text(
        "class Missing: ...\nclass Other: ...\nclass C: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "packages")
    with dag(NAMES) as module:
        yield module
    sys.modules.pop("no_such_package", None)


@pytest.mark.parametrize("name", RESULTS)
def test_the_step_has_all_globals_that_its_function_uses(names, tmp_path, name):
    assert run_step(tmp_path / "step", names, getattr(names, name)).value() == RESULTS[name]


def test_what_only_annotations_name_may_be_missing_in_the_step(names, tmp_path):
    """Neither a package that the image lacks nor a value that cannot be pickled stops the step."""
    python = f"{sys.executable} -I -S"
    assert run_step(tmp_path / "step", names, names.harmless, 1, 2, 3, 4, 5, python=python).value() == 6


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_cached_functions_in_child_processes_and_arguments(names, tmp_path, method):
    assert run_step(tmp_path / "a", names, names.cached_in_a_pool, method).value() == [3, 6]
    assert run_step(tmp_path / "b", names, names.call, names.scaled, 2).value() == [6, True]


def test_cached_functions_come_back(names, tmp_path):
    assert run_step(tmp_path / "a", names, names.local_cache).value(loads)(1) == 2
    assert run_step(tmp_path / "b", names, names.broken).value(loads)(2) == 6


def test_enums_keep_what_their_members_have(dag, tmp_path):
    with dag(ENUMS) as module:
        expected = module.facts(module.Planet.EARTH, module.Access.BOTH)
        done = run_step(tmp_path / "a", module, module.facts, module.Planet.EARTH, module.Access.BOTH)
        assert done.value() == expected
        planet, *others, kind = run_step(tmp_path / "b", module, module.all_of_them).value(loads)
        assert planet is module.Planet.EARTH
        assert kind is module.Planet
        assert others[:2] == [module.Coordinate.Y, module.Answer.YES]


def test_messages_show_the_dag_file_as_people_know_it(dag, tmp_path):
    text = "import threading\nLOCK = threading.Lock()\nclass A:\n    lock = LOCK\ndef f(): return A()\n"
    text += "class B:\n    def __init__(self): self.x = (i for i in ())\ndef g(): return B()\n"
    text += "def h(x): return x\n"
    with dag(text) as module:
        for attempt in (
            lambda: run_step(tmp_path / "a", module, module.f),
            lambda: run_step(tmp_path / "b", module, module.h, module.B()),
        ):
            with pytest.raises(Exception, match="cannot be sent") as caught:
                attempt()
            assert "unusual_prefix_" not in str(caught.value)
        done = run_step(tmp_path / "c", module, module.g)
    assert "my_dag.B" in done.failure["summary"]
    assert "unusual_prefix_" not in done.failure["summary"] + done.stderr


SENTINELS = """
import abc, collections, functools, multiprocessing, pickle, typing

UNSET = object()

class Missing:
    def __reduce__(self):
        return "MISSING"

MISSING = Missing()

class Nothing:
    pass

NOTHING = Nothing()
T = typing.TypeVar("T")
Pair = collections.namedtuple("Pair", "x y")

class Typed(typing.TypedDict):
    x: int

class Box(typing.Generic[T]):
    __slots__ = ("x",)
    def __init__(self, x):
        self.x = x

class Base(abc.ABC):
    names = []
    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        Base.names.append(cls.__name__)
    @abc.abstractmethod
    def f(self): ...

class Child(Base):
    def __init__(self):
        super().__init__()
    def f(self):
        return self.__class__ is __class__ is Child

class Problem(Exception):
    def __init__(self, code, *, detail):
        super().__init__(code)
        self.detail = detail
    def __reduce__(self):
        return functools.partial(Problem, detail=self.detail), self.args

def logged(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

@logged
def twice(x):
    return 2 * x

class Method:
    def __init__(self, by):
        self.by = by
    def times(self, x):
        return self.by * x

def singletons(a=UNSET, b=MISSING, c=NOTHING):
    again = pickle.loads(pickle.dumps(MISSING))
    return [a is UNSET, b is MISSING is again, c is NOTHING]

def kinds():
    values = [Pair(1, 2), Box(3), Child(), Problem(5, detail="d"), Typed(x=1)]
    pair, box, child, problem, typed = pickle.loads(pickle.dumps(values))
    return [pair == Pair(1, 2), type(box) is Box, child.f(), problem.detail, typed, Base.names]

def tasks(method):
    context = multiprocessing.get_context(method)
    work = [twice, Method(3).times, functools.partial(Method.times, Method(4)), Pair._make]
    with context.Pool(1, initializer=twice, initargs=(1,)) as pool:
        return [pool.apply(one, (2,) if one != Pair._make else ((1, 2),)) for one in work]
"""


def test_globals_that_are_compared_by_identity(dag, tmp_path):
    with dag(SENTINELS) as module:
        values = module.UNSET, module.MISSING, module.NOTHING
        assert run_step(tmp_path / "a", module, module.singletons, *values).value() == [True] * 3
        assert run_step(tmp_path / "b", module, module.singletons).value() == [True] * 3


def test_classes_of_every_kind(dag, tmp_path):
    with dag(SENTINELS) as module:
        *found, names = run_step(tmp_path / "a", module, module.kinds).value()
        assert found == [True, True, True, "d", {"x": 1}]
        assert names == ["Child"]
        assert run_step(tmp_path / "b", module, module.tasks, "spawn").value(loads) == [4, 6, 8, (1, 2)]
