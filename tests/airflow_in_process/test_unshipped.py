"""A step that misses a file of the project: the failure says which ``include=`` ships the file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def run(airflow_process):
    return airflow_process.run(Path(__file__).parent / "dags" / "unshipped.py")


@pytest.mark.parametrize(
    ("task", "pattern"),
    [
        ("beside", "unshipped_package/table.csv"),
        ("by_resources", "unshipped_package/inner/deep.txt"),
        ("by_pkgutil", "unshipped_package/table.csv"),
        ("explained", "unshipped_package/table.csv"),
        ("with_a_text", "unshipped_package/table.csv"),
        ("of_a_package", "unshipped_package/inner"),
        ("by_name", "unshipped_package/later.py"),
        ("lists", "unshipped_files"),
        ("at_import", "unshipped_config.yaml"),
        ("relative", "unshipped_config.yaml"),
        ("a_program", "unshipped_files/one.txt"),
        ("script", "unshipped_config.yaml"),
        ("script_with_path", "unshipped_config.yaml"),
        ("shell", "unshipped_config.yaml"),
    ],
)
def test_the_pattern_that_ships_the_file_is_named(run, task, pattern):
    run.assert_state(task, "failed")
    hint = f'the project has {pattern}, and it was not shipped with the step: add include=["{pattern}"]'
    assert f"what to do: {hint}" in run.log(task)


def test_the_pattern_is_added_to_those_of_the_task(run):
    wanted = 'add include=["unshipped_package/*.csv", "unshipped_package/inner/deep.txt"]'
    assert wanted in run.log("adds")


@pytest.mark.parametrize(
    "task", ["nowhere", "relative_and_nowhere", "elsewhere", "deleted", "shell_elsewhere"]
)
def test_other_missing_files_have_no_such_hint(run, task):
    run.assert_state(task, "failed")
    assert "include=" not in run.log(task)
    assert "No such file or directory" in run.log(task)


def test_an_included_file_is_there(run):
    assert run.value("included") == "a\n"
