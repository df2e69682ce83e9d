"""Function steps: by value and by reference, arguments, results."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest

from airflow_stepop.runner import protocol
from airflow_stepop.runner.entries import UntrustedPickleError


def loads(data, buffers):
    """Load a result as the host does."""

    class HostUnpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return super().find_class(module.replace("stepop_runner", "airflow_stepop.runner", 1), name)

    import io

    return HostUnpickler(io.BytesIO(data), buffers=buffers).load()


def test_by_value(folder):
    """A function of the DAG file runs with its arguments and returns its value."""

    def add(a, b, *, c):
        return {"sum": a + b + c}

    done = folder.function(add, 1, 2, c=3).run()
    assert done.value() == {"sum": 6}
    assert done.code == 0
    assert done.receipt["outcome"]
    assert done.outcome["job"] == "stepop-job"
    assert done.outcome["nonce"] == "n0nce"
    assert done.outcome["usage"]["peak_memory_bytes"] > 1_000_000
    assert done.stderr == ""


def test_closures_globals_and_nested_functions(folder):
    """What a function of the DAG file refers to travels with it."""
    offset = 10

    def helper(x):
        return Path(f"/{x}").name + str(offset)

    def f(x, scale=2):
        def inner():
            return helper(x) * scale

        return inner()

    assert folder.function(f, "a").run().value() == "a10a10"


def test_by_reference(folder, any_python):
    """A function of a module runs on every Python from 3.8 on, also as a nested name."""
    source = "class Model:\n    @staticmethod\n    def fit(x, y=1): return (x + y, {'()': [y]})\n"
    done = folder.reference(source, "Model.fit", 1, y=4, module="pack.helpers")
    done = folder.code({"pack/__init__.py": "", "pack/helpers.py": source}).run(any_python)
    assert done.value() == (5, {"()": [4]})


def test_result_object_on_every_python(folder, any_python):
    """An object that only a pickle can hold comes back from every Python."""
    source = "def f():\n    import datetime\n    return {datetime.date(2024, 1, 2): range(3)}\n"
    import datetime

    done = folder.reference(source, "f").run(any_python)
    assert done.outcome["value"]["codec"] == "pickle"
    assert done.value(loads) == {datetime.date(2024, 1, 2): range(3)}
    with pytest.raises(UntrustedPickleError):
        done.value()


def test_coroutine_function(folder, any_python):
    """An async function is run to its end."""
    source = "import asyncio\nasync def f(x):\n    await asyncio.sleep(0)\n    return x\n"
    assert folder.reference(source, "f", 7).run(any_python).value() == 7


def test_bare_interpreter(folder, any_python):
    """Neither site-packages nor environment are needed, and a relative path will do."""
    source = "import os\ndef f():\n    os.chdir('/')\n    raise ValueError('boom')\n"
    folder.reference(source, "f")
    argv = folder.argv(any_python)
    argv[1:1] = ["-I", "-S"]
    argv[argv.index(str(folder.path / "in" / "step.pyz"))] = "in/step.pyz"
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder.path, env={})
    assert folder.finished(done.returncode).failure["summary"] == "The step raised ValueError: boom"


def test_environment_of_the_step(folder):
    """The step starts in its own folder, which is on sys.path and is removed afterwards."""

    def f():
        import helper_beside

        return [
            os.getcwd(),
            os.environ["STEPOP_WORK"],
            os.environ["STEPOP_JOB"],
            helper_beside.x,
            sys.argv[1:],
        ]

    cwd, work, job, x, argv = folder.code({"helper_beside.py": "x = 1\n"}).function(f).run().value()
    assert cwd == work
    assert not os.path.exists(work)
    assert (job, x, argv) == ("stepop-job", 1, [])


def test_scratch_is_removed_however_locked(folder):
    """Read-only folders and links do not survive the step, and what they point to does."""
    keep = folder.path / "keep"
    keep.mkdir()

    def f(keep):
        os.makedirs("a/b")
        os.symlink(keep, "a/link")
        os.chmod("a", 0o500)
        return os.getcwd()

    assert not os.path.exists(folder.function(f, str(keep)).run().value())
    assert keep.exists()


def test_discarded_result(folder):
    """With nothing to push, nothing is encoded, not even what could not be."""
    done = folder.function(lambda: (x for x in "a")).set(discard_result=True).run()
    assert done.outcome["status"] == "success"
    assert done.outcome["value"] is None


def test_multiple_outputs(folder):
    """Every key of the result is a value of its own."""
    done = folder.function(lambda: {"a": 1, "b": {1}}).set(split="dict").run()
    assert done.outcome["split"] == "dict"
    values = done.outcome["values"]
    assert done.decode(values["a"]) == 1
    assert done.decode(values["b"], loads) == {1}


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (3, "multiple_outputs is set, but the step returned int, not a dict"),
        ({1: 2}, "multiple_outputs is set, but the key 1 is not a str"),
    ],
)
def test_multiple_outputs_of_something_else(folder, result, message):
    """A result without str keys cannot be split."""
    done = folder.function(lambda: result).set(split="dict").run()
    assert done.failure["summary"] == message
    assert done.failure["category"] == "user_error"


@pytest.mark.parametrize(
    ("result", "split"),
    [
        ([1, "a"], "list"),
        ((1, 2), "list"),
        ({"a": 1}, "dict"),
        (OrderedDict(a=1), "dict"),
        ({1: 2}, None),
        ({1, 2}, None),
        ("ab", None),
    ],
)
def test_split_for_mapped_tasks(folder, result, split):
    """A list or tuple is split by element, a dict by key, anything else stays whole."""
    done = folder.function(lambda: result).set(split="auto").run()
    assert done.outcome["split"] == split
    if split is None:
        assert done.value(loads) == result
    elif split == "list":
        assert [done.decode(entry) for entry in done.outcome["values"]] == list(result)
    else:
        assert {key: done.decode(entry) for key, entry in done.outcome["values"].items()} == result


def test_many_values_do_not_swell_the_outcome(folder):
    """All inline values together are no larger than one may be; only tiny ones stay in outcome.json then."""
    wanted = [b"x" * 10_000] * 40 + [1]
    done = folder.function(lambda: [b"x" * 10_000] * 40 + [1]).set(split="list").run()
    assert (done.out / "outcome.json").stat().st_size < 80_000
    entries = done.outcome["values"]
    assert [done.decode(entry) for entry in entries] == wanted
    assert ["data" in entry["segments"][0] for entry in entries] == [True] * 4 + [False] * 36 + [True]


def test_more_values_than_an_outcome_holds_become_segments(folder, tmp_path):
    """Tiny ones, too, once all of them together have a mebibyte: they are stored in Airflow's database."""
    done = (
        folder.function(lambda: [b"x" * 250] * 5000).set(split="list").run(segments=str(tmp_path / "store"))
    )
    places = ["data" in entry["segments"][0] for entry in done.outcome["values"]]
    inline = places.index(False)
    assert (1 << 20) - 250 <= inline * 250 <= 1 << 20
    assert places == [True] * inline + [False] * (5000 - inline)
    assert len(os.listdir(tmp_path / "store")) == 5000 - inline


def test_too_many_values_for_an_outcome(folder):
    """The step has failed by itself, and what it has printed and used is known."""
    done = folder.function(lambda: list(range(100_000))).set(split="list").run()
    assert done.code == protocol.EXIT_STEP_FAILED
    assert done.failure["category"] == "user_error"
    assert "The step ran, but returned 100000 values, whose description has " in done.failure["summary"]
    assert done.failure["summary"].endswith(" MiB, more than 8 MiB")
    assert (
        done.failure["hint"] == "return fewer values, for example lists of them: one value may have any size"
    )
    assert done.failure["summary"] in done.stderr


def test_large_values_are_segments(folder, tmp_path):
    """A large argument is read from its part, a large result is written to the folder of --segments."""

    def f(data, copy):
        data[0] = 7
        return data + copy

    folder.function(f, bytearray(1 << 20), copy=bytearray(b"abc"))
    assert "name" in folder.manifest["args"][0]["segments"][0]
    done = folder.run(segments=str(tmp_path / "store"))
    (segment,) = done.outcome["value"]["segments"]
    assert segment["name"].startswith("stepop-job.")
    data = (tmp_path / "store" / segment["name"]).read_bytes()
    assert data == b"\7" + bytes((1 << 20) - 1) + b"abc"
    assert os.listdir(done.out) == ["outcome.json"]


def test_names_of_segments(folder):
    """Segment files are named by us, whatever the job and the keys are called."""
    folder.function(lambda: {"../../evil": bytes(100_000)}).set(split="dict", job="../../j b")
    done = folder.run()
    assert sorted(os.listdir(done.out)) == ["------j-b.0.bin", "outcome.json"]


def test_numpy_without_copies(folder):
    """Arrays, also inside objects, come back writable, with buffers of their own."""
    import numpy as np

    def f(array, nested):
        array[0] = 1.0
        nested["w"][0] = 2.0
        return {"w": array, "n": nested["w"], 3: "pickled"}

    array = np.zeros(100_000)
    done = folder.function(f, array, {"w": array.copy(), 3: 3}).run()
    assert len(done.outcome["value"]["segments"]) == 3
    value = done.value(loads)
    assert value["w"][0] == 1.0
    value["n"][1] = 5
    assert value["n"][0] == 2.0


def test_references_to_earlier_results(folder):
    """A persistent id inside an argument is the earlier result, one object however often it occurs."""
    import cloudpickle

    class Ref:
        pass

    ref = Ref()

    def dumps(obj, callback):
        import io

        class Pickler(cloudpickle.Pickler):
            def persistent_id(self, value):
                return ("stepop-ref", 0) if value is ref else None

        stream = io.BytesIO()
        Pickler(stream, protocol=5, buffer_callback=callback).dump(obj)
        return stream.getvalue()

    def f(a, b):
        return [a["x"] is b[0], a["x"]]

    folder.function(f)
    args = [folder.entry({"x": ref, 1: 1}, dumps), folder.entry([ref], dumps)]
    folder.set(args=args, refs=[folder.entry({"old": [1, 2]}, limit=0)])
    assert folder.run().value() == [True, {"old": [1, 2]}]


# -- what cannot be sent back --------------------------------------------------------------------------------


def generator():
    yield 1


async def coroutine():
    return 1


@pytest.mark.parametrize(
    ("expression", "kind", "hint"),
    [
        ("(x for x in 'ab')", "generator", "return list(...) of it"),
        ("open(__import__('os').devnull)", "_io.TextIOWrapper", ", not the open file"),
        ("open(__import__('os').devnull, 'rb')", "_io.BufferedReader", ", not the open file"),
        ("{1: __import__('threading').Lock()}", "dict", "open connections, locks and handles cannot leave"),
        ("__import__('sys')._getframe()", "frame", "return plain data"),
    ],
)
def test_result_that_cannot_be_pickled(folder, edge_python, expression, kind, hint):
    """The message names the type and says what to return instead."""
    done = folder.reference(f"def f():\n    return {expression}\n", "f").run(edge_python)
    assert f"The step returned a value of type {kind} that cannot be pickled" in done.failure["summary"]
    assert hint in done.failure["hint"]
    assert done.failure["category"] == "user_error"
    assert done.code == 1


def test_place_of_the_value_that_cannot_be_pickled(folder):
    """When the result is split, the message says which value it is."""
    done = (
        folder.reference("def f():\n    return {'a': 1, 'b': (x for x in 'a')}\n", "f")
        .set(split="dict")
        .run()
    )
    assert done.failure["summary"].startswith("The step returned at ['b'] a value of type generator that")


# -- what cannot be loaded -----------------------------------------------------------------------------------


def test_other_python_minor(folder):
    """A pickled function says which Python it needs, which one is here, and what to do."""
    done = folder.function(lambda: 1).set(python="3.7").run()
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert "pickled with Python 3.7" in done.failure["summary"]
    assert f"this is Python {here} ({sys.executable})" in done.failure["summary"]
    for fix in ("use an image with Python 3.7", "module beside the DAG file", "settings={'python': "):
        assert fix in done.failure["hint"]
    assert (done.code, done.failure["category"]) == (64, "bad_config")


def test_too_old_python(folder):
    """Below 3.8 the runner says so before it does anything else."""
    old = [path for path in Path.home().glob(".pyenv/versions/*/bin/python") if path.parts[-3] < "3.8"]
    old = [path for path in old if not path.parts[-3].startswith("3.1")]
    if not old:
        pytest.skip("no Python below 3.8 here")
    for python in old:
        done = folder.function(lambda: 1).run(str(python))
        assert "the step needs Python 3.8 or newer" in done.stderr
        assert done.code == 64


def test_missing_package(folder, edge_python):
    """A module that needs a package which the image lacks says which."""
    done = folder.reference("import no_such_package_x\ndef f(): pass\n", "f").run(edge_python)
    failure = done.failure
    assert failure["category"] == "requirements"
    assert "Loading the module helpers failed here: ModuleNotFoundError" in failure["summary"]
    assert failure["hint"] == "use an image that has no_such_package_x"
    assert "import no_such_package_x" in "".join(failure["exception"]["traceback"])
    assert done.code == 64


def test_airflow_in_a_module_of_the_step(folder):
    """A module that imports Airflow is told to keep it out."""
    done = folder.reference("import airflow_nowhere\ndef f(): pass\n", "f").run()
    assert "keep Airflow out of the modules" in done.failure["hint"]


def test_missing_module_and_missing_name(folder, new_folder):
    """What the code archive lacks is named."""
    done = folder.reference("", "f", module="pack.sub").run()
    assert done.failure["summary"] == "The module pack.sub has no f"
    other = new_folder().reference("", "f")
    other.manifest["function"]["module"] = "helpers.gone"
    assert other.run().failure["summary"] == "The module helpers.gone is not in the code archive"


def test_argument_that_cannot_be_loaded(folder):
    """The message names the argument, and the package that its pickle needs."""
    folder.function(lambda a, model: 1, 1)
    data = b"cno_such_package_x\nModel\n."
    folder.set(args=[folder.entry(1), {"codec": "pickle", "segments": [folder.part("p", data)]}])
    folder.set(argument_names=["a", "model"])
    done = folder.run()
    assert done.failure["summary"].startswith("Loading argument 'model' failed here: ModuleNotFoundError")
    assert done.failure["category"] == "requirements"


# -- what is said about a result -----------------------------------------------------------------------------

MODEL = """
class Forest:
    pass
"""


@pytest.mark.parametrize(
    ("expression", "lines"),
    [
        ("{'auc': 0.5, 'model': Forest()}", ["stepop: ['model'] is helpers.Forest: pickled, "]),
        (
            "{'a': [1, {'m': Forest()}], 'b': range(3)}",
            ["stepop: ['a'][1]['m'] is helpers.Forest, ['b'] is range: p"],
        ),
        ("Forest()", ["stepop: the result is helpers.Forest: pickled, "]),
        ("{Forest(): 1}", ["stepop: the result, a key is helpers.Forest: pickled, "]),
        (
            "set(range(20_000))",
            ["stepop: the result is set of 20000, too deep or too large for JSON: pickled, "],
        ),
        (
            "[range(2)] * 9",
            ["stepop: [0] is range, [1] is range, [2] is range, [3] is range, [4] is range and 4 more: p"],
        ),
        (
            "{'loss': float('nan'), 'x': [1, float('-inf')]}",
            ["\x1fWARNING:stepop: ['loss'] is nan, ['x'][1] is -inf: JSON has no such number. The next"],
        ),
        (
            "{'loss': float('inf'), 'model': Forest()}",
            [
                "stepop: ['model'] is helpers.Forest: pickled, ",
                "\x1fWARNING:stepop: ['loss'] is inf: JSON has no such",
            ],
        ),
        ("{'a': 1, 'text': '{\"(float)\": 1}', 'at': __import__('datetime').date(2024, 1, 2)}", []),
    ],
)
def test_the_log_says_what_json_cannot_hold(folder, edge_python, expression, lines):
    """By its place in the result. NaN is data, and a warning names it."""
    done = folder.reference(f"{MODEL}\ndef f():\n    return {expression}\n", "f").run(edge_python)
    assert done.outcome["status"] == "success"
    found = [line for line in done.stderr.splitlines() if "stepop" in line]
    assert len(found) == len(lines), done.stderr
    for line, wanted in zip(found, lines, strict=True):
        assert line.startswith(wanted)


def test_a_result_whose_description_fails_arrives(folder):
    """What is said about a result never costs the result."""
    source = """
import sys

class Odd:
    __module__ = "gone.x"

    def __repr__(self):
        raise ValueError

    def __reduce__(self):
        return int, (3,)

    @property
    def shape(self):
        raise ValueError

def f():
    sys.modules["gone"] = None
    return {Odd(): Odd()}
"""
    done = folder.reference(source, "f").run()
    assert done.value(loads) == {3: 3}
    assert "pickled, " in done.stderr


def test_split_results_are_named_by_their_key(folder):
    source = f"{MODEL}\ndef f():\n    return {{'a': 1, 'b': [Forest()], 'c': float('nan')}}\n"
    done = folder.reference(source, "f").set(split="dict").run()
    assert "stepop: ['b'][0] is helpers.Forest: pickled, " in done.stderr
    assert "\x1fWARNING:stepop: ['c'] is nan: " in done.stderr


def test_a_thousand_pickled_values_do_not_fill_the_log(folder):
    done = folder.reference("def f():\n    return [range(2)] * 1000\n", "f").set(split="list").run()
    lines = [line for line in done.stderr.splitlines() if line.startswith("stepop: ")]
    assert len(lines) == 21
    assert lines[-1] == "stepop: more values were pickled, or are not finite; they are not listed"


@pytest.mark.parametrize(
    ("expression", "about"),
    [
        ("1", "int"),
        ("{'a': 1}", "dict of 1"),
        ("b'x' * 60_000", "bytes"),
        ("__import__('numpy').zeros((20, 3))", "numpy.ndarray 20 x 3"),
        ("__import__('pandas').DataFrame({'a': [1, 2], 'b': [3, 4]})", "pandas.DataFrame 2 x 2"),
        ("__import__('pyarrow').table({'a': [1, 2]})", "pyarrow.Table 2 x 1"),
        ("Forest()", "helpers.Forest"),
        ("__import__('email.message').message.Message()", "Message"),
    ],
)
def test_a_result_says_what_it_is(folder, expression, about):
    done = folder.reference(f"{MODEL}\ndef f():\n    return {expression}\n", "f").run()
    assert done.outcome["value"]["about"] == about


def test_known_types_on_every_python(folder, any_python):
    """Every Python writes and reads them alike."""
    import datetime
    import decimal
    import pathlib
    import signal
    import uuid

    value = {
        "on": datetime.datetime(2024, 2, 29, 12, 0, 0, 5, tzinfo=datetime.UTC),
        "day": datetime.date(2024, 2, 29),
        "for": datetime.timedelta(1, 2, 3),
        "price": decimal.Decimal("0.10"),
        "id": uuid.UUID(int=7),
        "path": pathlib.Path("/a"),
        "signal": signal.SIGTERM,
        "tags": frozenset({("a", 1)}),
        1: float("-inf"),
    }
    folder.reference(
        "def f(value):\n    return [value, {k: type(v).__name__ for k, v in value.items()}]\n", "f"
    )
    done = folder.set(args=[folder.entry(value)]).run(any_python)
    back, kinds = done.value()
    assert back == value
    assert {k: type(v).__name__ for k, v in value.items()} == kinds
    assert {k: type(v) for k, v in back.items()} == {k: type(v) for k, v in value.items()}
    assert done.outcome["value"]["codec"] == "json"
