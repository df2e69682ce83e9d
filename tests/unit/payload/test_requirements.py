"""What may be written in ``requirements=``, and what is said about the rest."""

from __future__ import annotations

import re

import pytest
from airflow.sdk import DAG

from airflow_stepop import RemoteStepOperator
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import CommandCall, FunctionCall, Setup
from airflow_stepop.payload.code_archive import Project
from airflow_stepop.payload.requirements import read_requirements

BAD = {
    "one package": ("scikit-learn==1.5", "for one package write ['scikit-learn==1.5']"),
    "no list": (5, "requirements must be a list, and this is 5"),
    "a number": (["numpy", 5], "requirements must be a list of strings, but contains 5"),
    "a bad version": (["numpy=1"], "requirements contains 'numpy=1', which is not a requirement such as"),
    "a folder": (["./mine"], "Modules beside the DAG file are shipped anyway"),
    "an option": (["--index-url https://x"], "which has an option. Only --hash=ALGORITHM:DIGEST is allowed"),
    "another index": (
        ["torch", "--extra-index-url https://download.pytorch.org/whl/cu124"],
        "env={'PIP_EXTRA_INDEX_URL': 'https://download.pytorch.org/whl/cu124'}",
    ),
    "an option behind a requirement": (["six --no-deps"], "which has an option"),
    "an option behind a digest": (["six==1 --hash=sha256:aa --no-deps"], "which has an option"),
    "no digest": (["six==1 --hash=sha256:xyz"], "which has an option"),
    "a line behind a digest": (
        ["six==1.17.0 --hash=sha256:aa\n--index-url http://h"],
        "which has a line end or another control character",
    ),
    "a line behind a requirement": (["six\r-r /etc/passwd"], "which has a line end or another control"),
    "another kind of line end": (["six\u2028-e /x"], "which has a line end or another control character"),
    "a byte of a terminal": (["six\x1b[2K"], "which has a line end or another control character"),
    "nothing": ([""], "requirements contains ''"),
}


@pytest.mark.parametrize(("value", "text"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_at_once(value, text):
    with DAG("bad", schedule=None), pytest.raises(StepConfigError, match=re.escape(text)):
        RemoteStepOperator(task_id="t", command=["true"], requirements=value)


@pytest.mark.parametrize(
    "value", [None, [], "{{ params.x }}", ["{{ params.x }}", "a>=1,<2"], "requirements.txt"]
)
def test_what_is_right_or_known_later_is_taken(value):
    with DAG("good", schedule=None):
        assert RemoteStepOperator(task_id="t", command=["true"], requirements=value).requirements == value


@pytest.fixture
def project(tmp_path):
    """A bundle with a DAG file in a subfolder."""
    (tmp_path / "bundle" / "dags").mkdir(parents=True)
    return Project.of(tmp_path / "bundle" / "dags" / "train.py", tmp_path / "bundle")


def test_lines_are_sorted_and_said_once(project):
    assert read_requirements([" b ", "a[x]>=1 ; python_version>'3'", "b"], project) == [
        "a[x]>=1 ; python_version>'3'",
        "b",
    ]
    assert read_requirements(None, project) == []


def test_digests_may_follow_a_requirement(project):
    lines = ["a==1 --hash=sha256:0a --hash=sha512:0b", "b --hash sha256:0C", "c-d @ https://h/c-d.whl"]
    assert read_requirements(lines, project) == lines


def test_a_file_is_read_as_pip_reads_it(project):
    text = "\ufeff# a comment\r\n\nb==1 \\\r\n  --hash=sha256:00 \\\n  --hash=sha256:11  # why\na @ https://h/a.whl#sha1=2\n"
    (project.dag_file.parent / "requirements.txt").write_text(text)
    assert read_requirements("requirements.txt", project) == [
        "a @ https://h/a.whl#sha1=2",
        "b==1 --hash=sha256:00 --hash=sha256:11",
    ]


@pytest.mark.parametrize("line", ["-r other.txt", "-e .", "--extra-index-url https://x", "./a.whl"])
def test_a_file_may_have_requirements_only(project, line):
    (project.dag_file.parent / "requirements.txt").write_text(f"a\n{line}\n")
    with pytest.raises(StepConfigError, match=re.escape(line)):
        read_requirements("requirements.txt", project)


def test_a_file_elsewhere_in_the_project(project):
    (project.roots[0] / "requirements.txt").write_text("a\n")
    assert read_requirements("../requirements.txt", project) == ["a"]
    assert read_requirements(str(project.roots[0] / "requirements.txt"), project) == ["a"]


def test_a_file_outside_the_project_is_not_read(project, tmp_path):
    """A template may make the path, and an error shows a line that is no requirement."""
    (tmp_path / "hidden.txt").write_text("a secret\n")
    for path in ("../../hidden.txt", str(tmp_path / "hidden.txt"), "../../bundle/../hidden.txt"):
        with pytest.raises(StepConfigError, match=r"is outside the DAG's project") as caught:
            read_requirements(path, project)
        assert "a secret" not in str(caught.value)


@pytest.mark.parametrize("path", ["/etc/passwd", "../.netrc", "a\n.txt"])
def test_a_file_of_another_kind_is_not_read(project, path):
    with pytest.raises(StepConfigError, match="is not the path of a requirements file"):
        read_requirements(path, project)


def test_a_link_in_the_project_is_followed(project, tmp_path):
    """The author of the project has made it."""
    (tmp_path / "common.txt").write_text("a\n")
    (project.dag_file.parent / "requirements.txt").symlink_to(tmp_path / "common.txt")
    assert read_requirements("requirements.txt", project) == ["a"]


def test_the_runner_brings_what_the_step_needs():
    """A function needs nothing that runs commands, and hardly any step installs something."""
    command = CommandCall(argv=["true"], inputs={}, outputs=())
    function = FunctionCall(function=len, args=[()], kwargs={}, reference=("builtins", "len"))
    options = {"job": "s-job", "nonce": "n", "split": "no", "is_result_wanted": True}
    setup = Setup(requirements=["a"], secrets={"A": "b"})
    assert build_payload(command, setup=setup, **options).features == {"command", "requirements", "secrets"}
    assert build_payload(function, **options).features == {"function"}
