"""The hint about ``include=`` for a file that a step has missed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_stepop.failure import Category, Failure
from airflow_stepop.lifecycle.missing_files import with_include
from airflow_stepop.payload.code_archive import Project
from airflow_stepop.runner.exception_data import failure_of
from airflow_stepop.runner.files import make_scratch


@pytest.fixture
def project(tmp_path):
    """A bundle with a DAG in a subfolder."""
    for name in ("dags/dag.py", "dags/config.yaml", "dags/a[1].txt", "shared/lib/table.csv", "note.txt"):
        file = tmp_path / "bundle" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    (tmp_path / "outside.txt").write_text("x")
    (tmp_path / "bundle" / "link.txt").symlink_to(tmp_path / "outside.txt")
    return Project.of(tmp_path / "bundle" / "dags" / "dag.py", tmp_path / "bundle")


@pytest.fixture
def scratch(tmp_path):
    return Path(make_scratch(str(tmp_path)))


def hint(project, path, include=()):
    try:
        os.stat(path)
    except OSError as error:
        return with_include(Failure.from_json(failure_of(error)), project, include).hint
    raise AssertionError(path)


@pytest.mark.parametrize("name", ["config.yaml", "shared/lib/table.csv", "note.txt", "dags/config.yaml"])
@pytest.mark.parametrize("kind", [str, Path, lambda path: str(path).encode()])
def test_a_file_beside_a_shipped_module(project, scratch, name, kind):
    wanted = f'the project has {name}, and it was not shipped with the step: add include=["a.sql", "{name}"]'
    assert hint(project, kind(scratch / name), ["a.sql"]) == wanted


def test_the_pattern_matches_the_file_alone(project, scratch):
    assert hint(project, scratch / "a[1].txt").endswith('add include=["a[[]1].txt"]')


@pytest.mark.parametrize("path", ["shared/../config.yaml", "./config.yaml"])
def test_a_path_that_is_written_in_another_way(project, scratch, path):
    assert hint(project, f"{scratch}/{path}").endswith('add include=["config.yaml"]')


def test_the_folder_that_the_dag_file_has_in_airflow(project):
    (project.dag_file.parent / "later.txt").write_text("x")
    path = project.dag_file.parent / "later.txt"
    error = FileNotFoundError(2, "No such file or directory", str(path))  # as in a container
    found = with_include(Failure.from_json(failure_of(error)), project, ())
    assert found.hint.endswith(
        'add include=["later.txt"]. The step finds it as "later.txt": it runs in the folder with the shipped '
        "files"
    )


@pytest.mark.parametrize(
    "path",
    [
        "/no/such/folder/config.yaml",
        "/config.yaml.d/config.yaml",
        "../config.yaml",
        "other.yaml",
        "",
        "link.txt",
        "{scratch}/other.yaml",
        "{scratch}/../config.yaml",
        "{scratch}/link.txt",
        "{scratch}-modules/config.yaml",
    ],
)
def test_a_path_elsewhere_has_no_hint(project, scratch, path):
    assert hint(project, path.format(scratch=scratch)) == ""


def test_a_failure_that_has_a_hint_keeps_it(project):
    failure = Failure(Category.USER_ERROR, "cat: config.yaml: No such file or directory", hint="look")
    assert with_include(failure, project, ()) == failure
    tail = ("cat: config.yaml: No such file or directory",)
    assert with_include(Failure(Category.OOM, "x", log_tail=tail), project, ()).hint == ""
    assert "include=" in with_include(Failure(Category.USER_ERROR, "x", log_tail=tail), project, ()).hint


@pytest.mark.parametrize(
    "line",
    [
        "FileNotFoundError: [Errno 2] No such file or directory: 'config.yaml'",
        "cat: config.yaml: No such file or directory",
        "sed: can't read config.yaml: No such file or directory",
        "sort: cannot read: config.yaml: No such file or directory",
        "ls: cannot access 'config.yaml': No such file or directory",
        "python3: can't open file '/tmp/stepop-0123456789abcdef/config.yaml': [Errno 2] No such file or "
        "directory",
    ],
)
def test_what_a_command_prints(project, line):
    failure = Failure(Category.USER_ERROR, "sh ended with exit code 1", log_tail=("before", line, "after"))
    assert with_include(failure, project, ()).hint.endswith('add include=["config.yaml"]')


@pytest.mark.parametrize(
    "exception",
    [
        {"mro": ["builtins.FileNotFoundError"], "attributes": [1]},
        {"mro": ["builtins.FileNotFoundError"], "attributes": {"filename": ["json", "[1]"]}},
        {
            "mro": ["builtins.FileNotFoundError"],
            "attributes": {"filename": ["json", '"' + "a/" * 9999 + '"']},
        },
        {"mro": ["builtins.FileNotFoundError"], "attributes": {"filename": ["json", '"a\\u0000b"']}},
        {"mro": [], "cause": {"mro": 1}},
    ],
)
def test_damaged_data_hides_no_failure(project, exception):
    failure = Failure(Category.USER_ERROR, "x", exception=exception)
    assert with_include(failure, project, ()) == failure
