"""Python interpreters are looked up in PATH, where a pyenv shim may lead to no interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.paths import SCRIPTS
from tests.support.pythons import find_pythons

FIND_PYTHON = SCRIPTS / "find_python"
NAMES = ["python3.13", "python3.12", "python3.11", "python3.9", "python3", "python"]
HERE = f"python3.{sys.version_info[1]}"
SHIM = """\
#!/bin/sh
echo "pyenv: $(basename "$0"): command not found" >&2
exit 127
"""


@pytest.fixture
def shims(tmp_path):
    """A folder with a shim for every Python version, none of which runs."""
    folder = tmp_path / "shims of pyenv"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text(SHIM)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def real(tmp_path):
    """A folder with only the Python that runs these tests."""
    folder = tmp_path / "real"
    folder.mkdir()
    (folder / HERE).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / HERE).chmod(0o755)
    return folder


def find(*folders, **env):
    path = os.pathsep.join(map(str, folders))
    return subprocess.run(["/bin/sh", FIND_PYTHON], env={"PATH": path, **env}, capture_output=True, text=True)


def test_a_python_behind_a_shim_is_found(shims, real):
    done = find(shims, real)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sys.executable


def test_a_shim_is_reported_as_not_running(shims):
    done = find(shims)
    assert done.returncode == 1
    assert not done.stdout
    assert f"{shims / 'python3.12'}: does not run" in done.stderr


def test_the_one_that_is_named_is_the_only_candidate(shims, real):
    assert find(real, PYTHON=str(shims / "python3.12")).returncode == 1
    assert find(shims, PYTHON=str(real / HERE)).stdout.strip() == sys.executable


def test_a_program_that_says_nothing_is_no_python(tmp_path):
    (tmp_path / "python3.12").symlink_to("/bin/true")
    assert find(tmp_path).returncode == 1


def test_the_tests_run_no_shim(shims, monkeypatch):
    monkeypatch.setenv("PATH", f"{shims}:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(shims))
    found = find_pythons()
    assert not [path for path in found.values() if str(shims) in path]
    assert found[f"3.{sys.version_info[1]}"] == sys.executable
