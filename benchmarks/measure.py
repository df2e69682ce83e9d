"""Measures CPU seconds, modules and memory of fresh processes, as the median of several runs.

``cases.py`` and ``peers.py`` call these functions.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

IS_SHORT = bool(os.environ.get("STEPOP_BENCH_SHORT"))
REPEATS = 1 if IS_SHORT else 7
WARMING = 0 if IS_SHORT else 1  # runs that only warm the disk cache

_PROBE = """
import json, resource, sys, time
{before}
modules, cpu, rss = len(sys.modules), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{code}
print(json.dumps([
    time.process_time() - cpu,
    len(sys.modules) - modules,
    (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss) * 1024,
]))
"""


@dataclass(frozen=True)
class Cost:
    """The cost of some code in a fresh interpreter, in addition to the code that ran before."""

    cpu_s: float
    modules: int = 0
    memory_bytes: int = 0


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def environment() -> dict[str, str]:
    """Return the environment without Python's variables, such as the one that turns off bytecode files."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def code_cost(code: str, before: str = "") -> Cost:
    """Return the median cost of ``code`` after ``before`` has run."""
    program = _PROBE.format(code=code, before=before)
    runs = []
    for _ in range(WARMING + REPEATS):
        argv = [sys.executable, "-c", program]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True, env=environment())
        runs.append(json.loads(shown.stdout.splitlines()[-1]))
    return Cost(*(median(column) for column in zip(*runs[WARMING:], strict=True)))


def process_cost(argv: list[str], env: dict[str, str] | None = None) -> Cost:
    """Return the median CPU time of a whole process and its children.

    :param env: variables on top of this process's
    """
    return Cost(repeated(lambda: _cpu_of(argv, env or {})))


def repeated(measure: Callable[[], float]) -> float:
    """Return the median of several measurements."""
    return median([measure() for _ in range(WARMING + REPEATS)][WARMING:])


def _cpu_of(argv: list[str], env: dict[str, str]) -> float:
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, env=environment() | env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{argv} ended with {done.returncode}:\n{done.stderr}")
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime
