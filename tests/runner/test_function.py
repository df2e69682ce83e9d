"""Function steps: by value and by reference, arguments, results."""

from __future__ import annotations


def test_by_value(folder):
    """A function of the DAG file runs with its arguments and returns its value."""

    def add(a, b, *, c):
        return {"sum": a + b + c}

    done = folder.function(add, 1, 2, c=3).run()
    assert done.value() == {"sum": 6}
    assert done.code == 0
    assert done.receipt["outcome"]


def test_by_reference(folder, any_python):
    """A function of a module runs on every Python from 3.8 on, also as a nested name."""
    source = "class Model:\n    @staticmethod\n    def fit(x, y=1): return [x + y]\n"
    done = folder.reference(source, "Model.fit", 1, y=4).run(any_python)
    assert done.value() == [5]
