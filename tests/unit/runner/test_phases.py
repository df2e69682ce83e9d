"""What the runner says when it is asked to, and only then."""

from __future__ import annotations

import os
import re

import pytest

from tests.support.phases import FORKED, PHASES

SOURCE = "def f(word):\n    print('the step prints')\n    return word\n"
SECRET = "a-value-that-nobody-may-see"


def run(folder, python, debug):
    env = {**os.environ, "STEPOP_DEBUG": debug} if debug is not None else None
    return folder.reference(SOURCE, "f", SECRET).run(python, env=env)


def test_every_phase_with_its_time(folder, any_python):
    done = run(folder, any_python, "1")
    assert done.value() == SECRET
    found = re.findall(r"^stepop debug \+(\d+\.\d{3}) s: (.*)$", done.stderr, re.MULTILINE)
    texts = [text for _, text in found if text != FORKED]
    assert len(found) == len(texts) + 1
    assert texts == PHASES
    assert SECRET not in done.stderr
    assert done.stdout == "the step prints\n"


@pytest.mark.parametrize("debug", [None, "", "0"])
def test_nothing_unasked(folder, debug):
    done = run(folder, os.sys.executable, debug)
    assert done.value() == SECRET
    assert done.stderr == ""


def test_a_step_that_closed_everything_is_no_problem(folder):
    source = "import os, sys\ndef f():\n    os.closerange(0, 64)\n    sys.stderr = None\n    return 1\n"
    done = folder.reference(source, "f").run(env={**os.environ, "STEPOP_DEBUG": "1"})
    assert done.value() == 1
