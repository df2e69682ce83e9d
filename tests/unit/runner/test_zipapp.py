"""The zipapp: small, the same for everybody, complete."""

from __future__ import annotations

import ast
import gc
import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import airflow_stepop
from airflow_stepop.hooks.common import zipapp
from airflow_stepop.hooks.common.zipapp import runner_zipapp


def test_size(folder):
    """The runner of a command, of a function, and of a function of a DAG file have a bound each.

    A step that reads or writes pre-signed addresses needs a little more.
    """
    folder.function(lambda a: a + 1, 1)
    command = len(runner_zipapp(frozenset({"command"})))
    assert command <= 36 * 1024
    assert len(runner_zipapp(frozenset({"command", "network"}))) <= command + 6 * 1024
    function = len(runner_zipapp(frozenset({"function"})))
    assert function + len(json.dumps(folder.manifest)) <= 50 * 1024
    assert len(runner_zipapp(frozenset({"function", "dag_module"}))) <= 55 * 1024


def test_features():
    """A module comes with each feature that needs it; a name that is no feature brings none."""

    def modules(*features):
        with zipfile.ZipFile(io.BytesIO(runner_zipapp(frozenset(features)))) as archive:
            return {name.rpartition("/")[2] for name in archive.namelist()}

    assert modules("checkpoint") == modules()
    assert modules("failure") - modules() == {"reason.py"}
    assert modules("mounted") - modules() == {"mounted.py", "reason.py"}
    assert modules("once", "sealed") - modules() == {"once.py", "sealing.py"}
    assert modules("secret_references") - modules("secrets") == {"cloud_api.py", "secret_references.py"}
    assert modules("aws_secrets") - modules() == {"aws_secrets.py"}
    assert modules("kept") - modules() == {"kept.py"}
    assert modules("synced") - modules() == {"synced.py"}


def test_same_bytes_in_every_process():
    """Two processes with other hash seeds build the same bytes."""
    code = (
        "import sys; from airflow_stepop.hooks.common import zipapp; "
        "sys.stdout.buffer.write(zipapp.runner_zipapp())"
    )
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}
        assert (
            subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).stdout
            == runner_zipapp()
        )


def test_contents():
    """Sources without comments, on the lines where they were; the licence of cloudpickle is kept."""
    import cloudpickle.cloudpickle as original

    with zipfile.ZipFile(io.BytesIO(runner_zipapp())) as archive:
        names = archive.namelist()
        text = archive.read("cloudpickle/cloudpickle.py").decode()
        values = archive.read("stepop_runner/values.py").decode()
    assert names == sorted(names)
    assert "Redistribution and use in source and binary forms" in text
    assert "IN NO EVENT SHALL THE COPYRIGHT" in text
    with open(original.__file__) as stream:
        source = stream.read()
    lines = {node.name: node.lineno for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    kept = {node.name: node.lineno for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert kept == lines
    assert "# " not in values.replace('"# ', "")


def test_syntax_is_old_enough():
    """Every source in the zipapp can be parsed by Python 3.8, and __main__ by Python 2."""
    with zipfile.ZipFile(io.BytesIO(runner_zipapp())) as archive:
        for name in archive.namelist():
            ast.parse(archive.read(name), name, feature_version=(3, 8))
        assert 'f"' not in archive.read("__main__.py").decode()


def test_what_a_small_step_imports(folder):
    """A plain function needs neither cloudpickle nor the modules that are slow to import."""

    def f():
        import sys

        return sorted(sys.modules)

    loaded = set(folder.function(f).run(f"{sys.executable} -I -S").value())
    slow = {
        "cloudpickle",
        "inspect",
        "typing",
        "logging",
        "dataclasses",
        "tempfile",
        "asyncio",
        "subprocess",
        "hashlib",
        "argparse",
        "zipfile",
        "urllib.request",
        "traceback",
        "threading",
        "shutil",
    }
    assert loaded & slow == set()


def test_what_was_built_is_kept(tmp_path):
    """Every worker is a new process: it reads what an earlier one has built."""
    features, folder = frozenset({"command"}), tmp_path / "runner"
    build = runner_zipapp.__wrapped__
    first = build(features, folder)
    assert first == build(features)
    kept = [(path, path.stat().st_ino) for path in folder.iterdir()]
    assert build(features, folder) == first
    now = [(path, path.stat().st_ino) for path in folder.iterdir()]
    assert now == kept, "what is built again is written again, to another file"


@pytest.mark.parametrize("damage", [b"", b"x" * 40, None])
def test_what_was_damaged_is_built_again(tmp_path, damage):
    features, folder = frozenset({"command"}), tmp_path / "runner"
    build = runner_zipapp.__wrapped__
    first = build(features, folder)
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] if damage is None else damage)
    assert build(features, folder) == first
    assert build(features, folder) == first


def test_a_change_of_the_sources_is_built_again(tmp_path):
    """In a copy of the package."""
    package, folder = Path(airflow_stepop.__file__).parent, tmp_path / "runner"
    copy = tmp_path / package.name
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from pathlib import Path\n"
    code += f"from {zipapp.__name__} import runner_zipapp\n"
    code += "sys.stdout.buffer.write(runner_zipapp(frozenset(), *map(Path, sys.argv[1:])))"

    def build(*folder):
        return subprocess.run([sys.executable, "-c", code, *folder], capture_output=True, check=True).stdout

    before = build(folder)
    (copy / zipapp._runner_folder().relative_to(package) / "main.py").write_text("changed = 1\n")
    after = build(folder)
    assert before != after == build()
    assert len(list(folder.iterdir())) == 2


def test_two_threads_build_at_once(tmp_path):
    """Python 3.11.7 fails when it changes to another thread within ``ast.parse()``, which a collection of
    garbage may have it do.
    """

    def change_threads(phase, info):
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(change_threads)
    gc.set_threshold(300)
    try:
        with ThreadPoolExecutor(2) as pool:
            wanted = [frozenset({"frames"}), frozenset({"network"})]
            found = list(pool.map(lambda features: runner_zipapp(features, tmp_path), wanted))
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(change_threads)
    assert found[0] != found[1]


def test_old_versions_go(tmp_path):
    folder = tmp_path / "runner"
    folder.mkdir()
    old, recent = folder / "old.pyz", folder / "recent.pyz"
    for path, days in ((old, 60), (recent, 2)):
        path.write_bytes(b"")
        os.utime(path, (time.time() - days * 86400,) * 2)
    runner_zipapp.__wrapped__(frozenset(), folder)
    assert not old.exists()
    assert recent.exists()


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    assert runner_zipapp.__wrapped__(frozenset(), tmp_path / "file" / "runner") == runner_zipapp(frozenset())
