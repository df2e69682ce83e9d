"""The code archive: which files of the project travel with a step."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from airflow_stepop.exceptions import PayloadError
from airflow_stepop.payload.code_archive import (
    Project,
    build_archive,
    bundle_root,
    command_files,
    included_files,
    project_modules,
)


@pytest.fixture
def write(tmp_path):
    """Write files of a project: path -> text."""

    def write(files, executable=()):
        for name, text in files.items():
            path = tmp_path / "project" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755 if name in executable else 0o644)
        return tmp_path / "project"

    return write


def modules(dag, bundle=None):
    project = Project.of(dag, bundle)
    return sorted(project_modules(project, [project.dag_file]))


def test_modules_beside_the_dag_are_found(write):
    root = write({"d.py": "import a\nfrom b import thing\n", "a.py": "", "b.py": "", "other.py": ""})
    assert modules(root / "d.py") == ["a.py", "b.py"]


def test_imports_inside_functions_and_conditions_are_found(write):
    root = write(
        {
            "d.py": "def f():\n    import a\n    if a:\n        from b import x\n",
            "a.py": "try:\n    import c\nexcept ImportError:\n    c = None\n",
            "b.py": "",
            "c.py": "",
        }
    )
    assert modules(root / "d.py") == ["a.py", "b.py", "c.py"]


def test_packages_bring_their_parents(write):
    root = write(
        {
            "d.py": "import pkg.deep.leaf\n",
            "pkg/__init__.py": "from . import side\n",
            "pkg/side.py": "",
            "pkg/deep/__init__.py": "",
            "pkg/deep/leaf.py": "",
            "pkg/deep/unused.py": "",
        }
    )
    assert modules(root / "d.py") == [
        "pkg/__init__.py",
        "pkg/deep/__init__.py",
        "pkg/deep/leaf.py",
        "pkg/side.py",
    ]


def test_relative_imports_are_followed(write):
    root = write(
        {
            "d.py": "from pkg import one\n",
            "pkg/__init__.py": "",
            "pkg/one.py": "from . import two\nfrom .sub import three\nfrom .sub.four import x as y\n",
            "pkg/two.py": "",
            "pkg/sub/__init__.py": "from .. import five\n",
            "pkg/sub/three.py": "from ..six import name\n",
            "pkg/sub/four.py": "",
            "pkg/five.py": "",
            "pkg/six.py": "",
        }
    )
    names = ["__init__", "five", "one", "six", "sub/__init__", "sub/four", "sub/three", "two"]
    assert modules(root / "d.py") == [f"pkg/{name}.py" for name in names]


def test_namespace_packages_are_found(write):
    root = write({"d.py": "from space.inner import leaf\nimport space.other\n",
                  "space/inner/leaf.py": "", "space/other.py": ""})  # fmt: skip
    assert modules(root / "d.py") == ["space/inner/leaf.py", "space/other.py"]


def test_the_bundle_comes_before_the_folder_of_the_dag(write):
    """As on Airflow's own import path; a module is taken from one place only."""
    root = write(
        {"team/d.py": "import common\nimport own\n", "common.py": "", "team/common.py": "", "team/own.py": ""}
    )
    assert modules(root / "team" / "d.py", bundle=root) == ["common.py", "own.py"]
    project = Project.of(root / "team" / "d.py", root)
    assert project_modules(project, [project.dag_file])["common.py"] == root / "common.py"


def test_the_dag_file_itself_is_not_sent(write):
    root = write({"d.py": "import a\n", "a.py": "import d\n"})
    assert modules(root / "d.py") == ["a.py"]


def test_cycles_end(write):
    root = write({"d.py": "import a\n", "a.py": "import b\n", "b.py": "import a\n"})
    assert modules(root / "d.py") == ["a.py", "b.py"]


def test_what_is_installed_is_not_sent(write):
    root = write({"d.py": "import json, pytest, a\n", "a.py": "", ".venv/lib/json.py": ""})
    assert modules(root / "d.py") == ["a.py"]


def test_an_environment_inside_the_project_is_not_sent(write):
    """A bundle that holds the virtual environment from which Airflow runs."""
    site = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    root = write({"d.py": "import pytest\n"})
    assert modules(root / "d.py", bundle=site.parents[2]) == []


def test_a_module_that_does_not_parse_is_sent_as_it_is(write):
    root = write({"d.py": "import a\n", "a.py": "def (:\n"})
    assert modules(root / "d.py") == ["a.py"]


def test_other_encodings_are_read(write):
    root = write({"d.py": "import a\n", "b.py": ""})
    (root / "a.py").write_bytes("# -*- coding: latin-1 -*-\nname = 'é'\nimport b\n".encode("latin-1"))
    assert modules(root / "d.py") == ["a.py", "b.py"]


def test_relative_imports_of_the_function_s_own_module_are_followed(write):
    """A step that is imported by reference: its module is where the search starts, beside the DAG file."""
    root = write({"d.py": "from pkg.steps import go\n", "pkg/__init__.py": "",
                  "pkg/steps.py": "from .util import x\n",
                  "pkg/util.py": ""})  # fmt: skip
    project = Project.of(root / "d.py", None)
    found = project_modules(project, [root / "d.py", root / "pkg/steps.py"])
    assert sorted(found) == ["pkg/__init__.py", "pkg/steps.py", "pkg/util.py"]


# -- include


def test_include_globs_folders_and_files(write):
    root = write({"d.py": "", "data/a.csv": "1", "data/deep/b.csv": "2", "data/c.txt": "3", "sql/q.sql": "4",
                  "conf.yaml": "5", "data/__pycache__/x.pyc": ""})  # fmt: skip
    project = Project.of(root / "d.py", None)
    assert sorted(included_files(project, ["conf.yaml", "sql"])) == ["conf.yaml", "sql/q.sql"]
    assert sorted(included_files(project, ["data/*.csv"])) == ["data/a.csv"]
    assert sorted(included_files(project, ["data/**/*.csv"])) == ["data/a.csv", "data/deep/b.csv"]
    assert sorted(included_files(project, ["data/"])) == ["data/a.csv", "data/c.txt", "data/deep/b.csv"]


def test_include_looks_beside_the_dag_and_then_in_the_bundle(write):
    root = write({"team/d.py": "", "team/own.txt": "own", "own.txt": "bundle", "shared.txt": ""})
    files = included_files(Project.of(root / "team" / "d.py", root), ["own.txt", "shared.txt"])
    assert files == {"own.txt": root / "team" / "own.txt", "shared.txt": root / "shared.txt"}


def test_include_that_matches_nothing_is_an_error(write):
    root = write({"d.py": "", "data.csv": ""})
    with pytest.raises(PayloadError, match=r"include='date\.csv' matches no file below .*project"):
        included_files(Project.of(root / "d.py", None), ["date.csv"])


@pytest.mark.parametrize("pattern", ["../secrets.txt", "/etc/passwd", "data/../../x", ".."])
def test_include_cannot_leave_the_project(write, pattern):
    root = write({"d.py": "", "data/x": ""})
    with pytest.raises(PayloadError, match="leads out of the project"):
        included_files(Project.of(root / "d.py", None), [pattern])


def test_include_cannot_leave_the_project_through_a_link(write, tmp_path):
    """A link inside the project to a file outside it is followed by nobody."""
    (tmp_path / "secret.txt").write_text("secret")
    root = write({"d.py": "", "data/a.txt": "a"})
    (root / "data" / "link.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(PayloadError, match=r"link\.txt .*leads out of the project"):
        included_files(Project.of(root / "d.py", None), ["data"])


def test_include_must_be_a_list(write):
    root = write({"d.py": "", "data": ""})
    with pytest.raises(PayloadError, match=r"include must be a list; write \['data'\]"):
        included_files(Project.of(root / "d.py", None), "data")


# -- commands


def test_words_of_a_command_that_are_files_are_sent(write):
    root = write({"d.py": "", "train.py": "", "conf/a.yaml": "", "data": ""})
    argv = [
        "python",
        "train.py",
        "--config",
        "conf/a.yaml",
        "-data",
        "/etc/passwd",
        "../x",
        "",
        "x" * 300,
        "é" * 200,  # 400 bytes: no file system has such a name
        f"{'conf/' * 2000}a.yaml",
        "nothing",
        "-m",
        "é" * 200,
    ]
    assert sorted(command_files(Project.of(root / "d.py", None), argv)) == ["conf/a.yaml", "train.py"]


def test_a_script_of_a_command_brings_the_modules_that_it_imports(write):
    root = write({"d.py": "", "train.py": "import model\n", "model.py": "import layers\n", "layers.py": ""})
    files = command_files(Project.of(root / "d.py", None), ["python", "train.py"])
    assert sorted(files) == ["layers.py", "model.py", "train.py"]


def test_a_script_in_a_folder_finds_what_lies_beside_it(write):
    root = write({"d.py": "", "jobs/train.py": "import model\n", "jobs/model.py": "", "model.py": ""})
    files = command_files(Project.of(root / "d.py", None), ["python", "jobs/train.py"])
    assert sorted(files) == ["jobs/model.py", "jobs/train.py"]


def test_a_module_that_a_command_runs_is_sent(write):
    root = write(
        {"d.py": "", "pkg/__init__.py": "", "pkg/train.py": "from . import model\n", "pkg/model.py": ""}
    )
    files = command_files(Project.of(root / "d.py", None), ["python", "-m", "pkg.train"])
    assert sorted(files) == ["pkg/__init__.py", "pkg/model.py", "pkg/train.py"]


# -- the archive


def test_no_files_no_archive():
    assert build_archive({}) is None


def test_archive_keeps_names_contents_and_execute_bits(write):
    root = write({"a.sh": "#!/bin/sh\n", "p/b.py": "x = 1\n"}, executable=["a.sh"])
    archive = build_archive({"p/b.py": root / "p/b.py", "a.sh": root / "a.sh"})
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.namelist() == ["a.sh", "p/b.py"]
        assert opened.read("p/b.py") == b"x = 1\n"
        assert [info.external_attr >> 16 for info in opened.infolist()] == [0o755, 0o644]


def test_too_much_code_is_refused(write, monkeypatch):
    monkeypatch.setattr("airflow_stepop.payload.code_archive.CODE_BYTES", 1024)
    root = write({"a.txt": "x" * 1000, "b.txt": "y" * 1000})
    with pytest.raises(PayloadError, match=r"larger than .* \(at b\.txt\)"):
        build_archive({"a.txt": root / "a.txt", "b.txt": root / "b.txt"})


ARCHIVE = """
import hashlib, sys
from pathlib import Path
from airflow_stepop.payload.code_archive import *
project = Project.of(sys.argv[1], None)
files = project_modules(project, [project.dag_file]) | included_files(project, ["data"])
print(hashlib.sha256(build_archive(files)).hexdigest())
"""


def test_archive_is_the_same_in_every_process(write):
    """Whatever the hash seed, the time zone, the files' times and the umask."""
    root = write(
        {"d.py": "import a, b, c\n", "a.py": "", "b.py": "", "c.py": "", "data/x": "x", "data/y": "y"}
    )
    seen = set()
    for seed in ("1", "2"):
        for file in root.rglob("*"):
            os.utime(file, (int(seed) * 10**8, int(seed) * 10**8))
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", ARCHIVE, str(root / "d.py")]
        seen.add(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
        (root / "b.py").chmod(0o600)
    assert len(seen) == 1
    assert len(seen.pop().strip()) == len(hashlib.sha256().hexdigest())


@pytest.mark.parametrize(
    ("relative", "expected"),
    [("team/d.py", ""), ("d.py", "team"), ("other/d.py", None), ("/dags/team/d.py", None)],
)
def test_the_bundle_of_a_task_without_one(tmp_path, relative, expected):
    """The path below the bundle, which Airflow knows of each DAG file, leads to the bundle."""
    found = bundle_root(str(tmp_path / "team" / "d.py"), relative)
    assert found == (None if expected is None else tmp_path / expected)


def test_the_bundle_of_a_script(tmp_path, monkeypatch):
    """It is the innermost configured bundle around the file."""
    bundles = [
        {"name": name, "classpath": LOCAL_BUNDLE, "kwargs": {"path": str(tmp_path / path)}}
        for name, path in (("all", "."), ("team", "team"), ("other", "other"))
    ]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    assert bundle_root(str(tmp_path / "team" / "sub" / "d.py"), None) == tmp_path / "team"
    assert bundle_root(str(tmp_path / "teams" / "d.py"), None) == tmp_path
    assert bundle_root("/elsewhere/d.py", None) is None


LOCAL_BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"
