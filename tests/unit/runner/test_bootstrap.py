"""The command that runs ``step.pyz`` only with the bytes that the request names."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import warnings
import zipfile

import pytest

from airflow_stepop.hooks.common.bootstrap import BOOTSTRAP, PROLOGUE
from airflow_stepop.hooks.common.zipapp import runner_zipapp
from airflow_stepop.runner import protocol
from tests.support.dag_file import loaded, run_step
from tests.support.waiting import PATIENCE_S

CHANGED = "stepop: step.pyz was changed after it was sent\n"


def test_a_service_can_hold_it():
    """One short line, which shells, JSON and templates of the services hardly lengthen."""
    assert len(BOOTSTRAP) <= 256
    assert BOOTSTRAP.isascii()
    assert BOOTSTRAP.isprintable()
    assert not set(BOOTSTRAP) & set("'$\\`")
    assert len(shlex.quote(BOOTSTRAP)) == len(BOOTSTRAP) + 2
    assert len(json.dumps(BOOTSTRAP)) <= 256 + 8
    assert "PK" not in PROLOGUE


def test_it_runs_the_step(folder, any_python):
    """With every Python: the step's result, its arguments and the options of the runner are as without it."""

    def f(a):
        import sys

        return a + 1, sys.argv[1:], "" in sys.path

    if os.path.realpath(any_python) != os.path.realpath(sys.executable):
        folder.reference("def f(a):\n import sys\n return a + 1, sys.argv[1:], '' in sys.path\n", "f", 1)
    else:
        folder.function(f, 1)
    done = folder.run(any_python, runner_digest=folder.runner_digest())
    assert done.code == protocol.EXIT_OK, done.stderr
    assert list(done.value()) == [2, [], False]
    assert done.stderr == ""


def test_another_digest_runs_nothing(folder, any_python):
    done = folder.command("touch", str(folder.path / "ran")).run(any_python, runner_digest="0" * 64)
    assert (done.code, done.stderr) == (protocol.EXIT_NO_OUTCOME, CHANGED)
    assert not (folder.path / "ran").exists()
    assert done.receipt is None


@pytest.mark.parametrize("place", ["prologue", "member", "main", "end"])
def test_nothing_of_a_changed_file_runs(folder, place):
    """The digest was taken, and then somebody who can write to the bucket changed the file."""
    ran = folder.path / "ran"
    folder.command("touch", str(ran))
    digest, path = folder.runner_digest(), folder.path / "in" / protocol.RUNNER
    evil = f"open({str(ran)!r}, 'w')\n"
    if place == "prologue":
        path.write_bytes(evil.encode() + path.read_bytes())
    elif place == "end":
        path.write_bytes(path.read_bytes() + b"\n")
    else:
        name = "__main__.py" if place == "main" else "stepop_runner/extra.py"
        with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as archive:
            warnings.simplefilter("ignore")  # the archive has the name twice
            archive.writestr(name, evil)
    done = folder.run(runner_digest=digest)
    assert (done.code, done.stderr) == (protocol.EXIT_NO_OUTCOME, CHANGED)
    assert not ran.exists()


def test_a_change_after_the_check_has_no_effect(folder):
    """The step removes the file while it runs; the runner imports more of its modules after that."""
    path = folder.path / "in" / protocol.RUNNER
    evil = folder.path / "evil.pyz"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("stepop_runner/exception_data.py", "raise SystemExit('it ran')")
    script = f"import shutil; shutil.copy({str(evil)!r}, {str(path)!r})"
    folder.reference(f"def f():\n {script}\n raise ValueError('plain')\n", "f")
    done = folder.run(runner_digest=folder.runner_digest())
    assert done.failure["exception"]["message"] == "plain"


def test_modules_of_the_current_folder_are_not_taken(folder, any_python):
    """A service may start the job in the folder with the staged files."""
    for name in ("hashlib", "zipimport", "os", "tempfile", "stepop_runner"):
        (folder.path / "in" / f"{name}.py").write_text("raise SystemExit('it ran')\n")
    folder.command("true")
    argv = folder.argv(any_python, runner_digest=folder.runner_digest())
    done = subprocess.run(argv, cwd=folder.path / "in", capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == protocol.EXIT_OK, done.stderr


DAG = """
import multiprocessing

def double(number):
    return 2 * number

def pool(method):
    with multiprocessing.get_context(method).Pool(1) as made:
        return made.map(double, [1, 2])
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_child_processes_of_the_step_find_the_runner(tmp_path, method):
    """A child that was not forked imports functions of the DAG file with modules of the runner."""
    path = tmp_path / "dags" / "my_dag.py"
    path.parent.mkdir()
    path.write_text(DAG)
    runner = runner_zipapp(frozenset({"function", "dag_module"}))
    with loaded(path) as dag:
        digest = hashlib.sha256(runner).hexdigest()
        done = run_step(tmp_path / "step", dag, dag.pool, method, runner_digest=digest)
    assert done.value() == [2, 4], done.stderr


WITHOUT_MEMFD = "import os\ndel os.memfd_create\n"
WITHOUT_PROC = """
import os
real = os.stat

def stat(path, *args, **named):
    if str(path).startswith("/proc/"):
        raise FileNotFoundError(2, "No such file or directory", path)
    return real(path, *args, **named)

os.stat = stat
"""


@pytest.mark.parametrize("spoil", [WITHOUT_MEMFD, WITHOUT_PROC], ids=["memfd_create", "proc"])
def test_a_system_without_files_in_memory(folder, tmp_path, spoil):
    """Neither memfd_create(2) nor ``/proc`` is everywhere: a temporary file serves as well."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(spoil)
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "TMPDIR": str(tmp_path)}
    done = folder.reference("def f():\n return 1\n", "f").run(runner_digest=folder.runner_digest(), env=env)
    assert done.value() == 1, done.stderr
    assert [path.stat().st_mode & 0o777 for path in tmp_path.glob("*.pyz")] == [0o600]


def test_a_missing_runner_is_named(folder):
    digest = folder.command("true").runner_digest()
    argv = folder.argv(runner_digest=digest)
    (folder.path / "in" / protocol.RUNNER).unlink()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    assert "step.pyz" in done.stderr
