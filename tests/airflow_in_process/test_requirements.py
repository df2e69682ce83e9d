"""``requirements=`` in a DAG: a list, a file, templates, mapped; and how a failed install ends a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.wheels import make_wheel

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    make_wheel(folder / "wheels", "stepop_base", "2.0")
    make_wheel(folder / "wheels", "stepop_dep", "1.0", needs=("stepop_base>=1",))
    make_wheel(folder / "wheels", "stepop_tool", source="def main():\n    print(7)\n", script="stepop-tool")
    env = {
        "AIRFLOW_VAR_PACKAGES_WHEELS": str(folder / "wheels"),
        "AIRFLOW_VAR_PACKAGES_CACHE": str(folder / "cache"),
    }
    return airflow_process.run(Path(__file__).parent / "dags" / "packages.py", env=env)


@pytest.mark.parametrize("task", ["listed", "from_file"])
def test_functions_import_them(run, task):
    run.assert_state(task)
    assert run.value(task) == ["1.0", "2.0"]
    log = run.log(task)
    assert ("stepop: installed 2 packages in " in log) != ("stepop: requirements ready (cached)" in log)
    assert ".whl" not in log, "no line of the installer"
    is_installed = "stepop: installed" in log
    assert ("installing_s" in run.xcoms[task]["usage"]) == is_installed
    assert (" of it installing, " in log) == is_installed


@pytest.mark.parametrize("index", [0, 1])
def test_commands_run_them(run, index):
    run.assert_state(f"mapped[{index}]")
    assert run.value(f"mapped[{index}]")["out.json"] == 7


def test_a_failed_install_is_a_failure_with_its_last_lines(run):
    error = run.error("missing")
    assert error["type"] == "StepFailedError"
    assert "The requirements could not be installed" in error["text"]
    assert "why: requirements" in error["text"]
    assert "stepop_dep==7" in error["text"].partition("last lines of the step:")[2].replace("-", "_")


def test_a_file_that_is_not_there_is_an_error(run):
    error = run.error("no_file")
    assert error["type"] == "StepConfigError"
    assert "requirements='packages_nowhere.txt' cannot be read" in error["text"]
