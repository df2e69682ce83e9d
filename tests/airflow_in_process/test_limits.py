"""Long names, stores that are gone, and arguments that turn out wrong when the task runs."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.corpus, pytest.mark.timeout(900)]

DAG_FILE = Path(__file__).parent / "dags" / "limits.py"


def name() -> str:
    spec = importlib.util.spec_from_file_location("limits", DAG_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NAME


@pytest.fixture(scope="module")
def read_only(tmp_path_factory):
    """A read-only file system; the root user does not mind file modes. Empty when we may not mount."""
    folder = tmp_path_factory.mktemp("read_only")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True)
    yield "" if done.returncode else str(folder)
    if not done.returncode:
        subprocess.run(["umount", "-l", str(folder)])


@pytest.fixture(scope="module")
def run(airflow_process, read_only):
    stores = ",".join(filter(None, ["/proc/no/such/folder", read_only]))
    env = {"STEPOP_TEST_READ_ONLY": read_only, "AIRFLOW__STEPOP__EXTRA_STORES": stores}
    return airflow_process.run(DAG_FILE, name(), env=env)


def test_long_names(run):
    run.assert_state(name())
    run.assert_state("check")


@pytest.mark.parametrize("task", ["gone", "read_only"])
def test_a_store_that_cannot_be_written_is_named(run, read_only, task):
    if task == "read_only" and not read_only:
        pytest.skip("this host does not let us mount a read-only file system")
    text = run.error(task)["text"]
    assert "The step ran, but its result could not be written" in text
    assert ("No such file or directory: '/proc/no'" if task == "gone" else "Read-only file system") in text


def test_a_store_that_is_not_needed_may_be_gone(run):
    run.assert_state("gone_and_not_needed")


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("elsewhere", "store='/somewhere/else' is not configured, so tasks would refuse to read results"),
        ("bad_backend", "locla"),
        ("bad_setting", "settings"),
        ("bad_memory", "memory='16' has no unit; write '16GB' or '16GiB'"),
        ("bad_include", "include must be a list; write ['data']"),
        ("bad_command[0]", "command must be a list; write ['true', '--fast']"),
        ("too_much_memory", "1PB"),
        ("large_argument", "of the step's input: they lie in a folder of the host"),
    ],
)
def test_what_is_wrong_at_run_time_is_named(run, task, text):
    assert text in run.error(task)["text"]
