"""The types that mypy sees in ``airflow_stepop.remote_step``, which know every argument."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.sdk import BaseOperator

from airflow_stepop import RemoteStepOperator
from airflow_stepop.signatures import AirflowArguments, StepArguments
from tests.support.paths import ROOT

FILE = Path(__file__).parent / "typed" / "steps.py"


def expected() -> dict[int, str]:
    """Return line -> what mypy must report for it: ``error: CODE`` or a type."""
    found = {}
    for number, line in enumerate(FILE.read_text().splitlines(), 1):
        code, _, comment = line.rpartition("  # ")
        if comment.startswith("error: ") or "reveal_type(" in code:
            found[number] = comment
    return found


def said_by_mypy() -> dict[int, str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"]
    command += ["--no-pretty", f"--cache-dir={ROOT / '.mypy_cache' / 'typed'}", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert not done.stderr, done.stderr
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        number, kind, text = re.fullmatch(r".*?\.py:(\d+): (error|note): (.*)", line).groups()
        code = re.search(r"\[([a-z-]+)\]$", text)
        revealed = re.fullmatch(r'Revealed type is "(.*)"', text)
        if kind == "error":  # only the first error of a line, since the others follow from it
            found.setdefault(int(number), f"error: {code.group(1) if code else text}")
        elif revealed:
            found[int(number)] = revealed.group(1).replace("builtins.", "")
    return found


@pytest.mark.timeout(900)
def test_mypy_accepts_the_good_uses_and_refuses_the_bad_ones():
    assert said_by_mypy() == expected()


def test_every_argument_of_the_operator_has_a_type():
    parameters = inspect.signature(RemoteStepOperator.__init__).parameters
    own = {name for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    of_a_command = {"command", "inputs", "outputs", "workdir"}
    typed = set(StepArguments.__annotations__) - set(AirflowArguments.__annotations__)
    assert typed == own - of_a_command - {"retries", "retry_policy", "retry_delay"}


def test_every_argument_of_airflow_has_a_type():
    """``resources`` is excluded, since Airflow changes the value, and ``sla``, since it has no effect."""
    parameters = inspect.signature(BaseOperator.__init__).parameters
    airflow = {name for name, value in parameters.items() if value.kind is value.KEYWORD_ONLY}
    assert set(AirflowArguments.__annotations__) == airflow - {"resources", "sla", "multiple_outputs"}
