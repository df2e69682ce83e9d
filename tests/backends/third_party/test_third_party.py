"""Backends of other distributions: built, installed, and found through their entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HERE = Path(__file__).parent

ASK = """
import json, sys
from airflow_stepop import registry
from airflow_stepop.exceptions import StepopError
def ask(name):
    try:
        return registry.hook_class(name).__name__
    except StepopError as error:
        return [type(error).__name__, str(error)]
print(json.dumps({
    "names": registry.backend_names(),
    "asked": {name: ask(name) for name in sys.argv[1:]},
    "list": [[b.name, b.source, b.is_available, b.problem] for b in registry.describe_backends()],
}))
"""


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory):
    """Return a function that installs distributions of this folder and returns their environment."""

    def install(*names: str) -> dict[str, str]:
        site = tmp_path_factory.mktemp("site")
        for name in names:
            build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(site)]
            subprocess.run(build, cwd=HERE / name, check=True, capture_output=True)
        for wheel in site.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(site)
            wheel.unlink()
        return {**os.environ, "PYTHONPATH": str(site)}

    return install


def ask(env: dict[str, str], *names: str) -> dict:
    result = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_a_backend_in_one_file_passes_the_contract(install) -> None:
    """The backend in one file that the documentation shows keeps every promise of the contract."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    result = subprocess.run(
        [*command, str(HERE / "contract_flock.py")],
        env=install("backend"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


def test_a_third_party_backend_is_found(install) -> None:
    """The name is known, the class loads, and the list names the distribution."""
    answer = ask(install("backend"), "flock", "flok")
    assert answer["names"][0] == "local"
    assert answer["names"][-1] == "flock"
    assert answer["asked"]["flock"] == "FlockStepHook"
    assert answer["asked"]["flok"][0] == "BackendNotFoundError"
    assert "did you mean 'flock'?" in answer["asked"]["flok"][1]
    assert ["flock", "airflow-stepop-flock", True, ""] in answer["list"]


def test_a_builtin_name_cannot_be_taken(install) -> None:
    """`local` stays built in, and the list names the distribution that claimed the name."""
    answer = ask(install("clash"), "local")
    assert answer["asked"]["local"] == "LocalStepHook"
    assert answer["names"].count("local") == 1
    (line,) = [line for line in answer["list"] if line[1] == "airflow-stepop-clash"]
    assert line[2] is False
    assert line[3] == (
        "the name 'local' is taken by airflow-stepop; airflow-stepop-clash must choose another one"
    )


def test_a_broken_backend_does_not_hide_the_others(install) -> None:
    """The list names each broken one's distribution and error. The others work."""
    broken = ["needy", "faulty", "missing", "nameless", "alien"]
    answer = ask(install("backend", "broken"), "local", "flock", *broken)
    asked = answer["asked"]
    assert (asked["local"], asked["flock"]) == ("LocalStepHook", "FlockStepHook")
    kind, text = asked["needy"]
    assert kind == "BackendNotInstalledError"
    assert "needs the module an_sdk_that_nobody_has, which is not installed" in text
    for name, words in {
        "faulty": "ZeroDivisionError",
        "missing": "airflow_stepop_broken.missing",
        "nameless": "AttributeError",
        "alien": "is not a StepHook: airflow_stepop_broken:Alien",
    }.items():
        kind, text = asked[name]
        assert kind == "StepConfigError", (name, kind, text)
        assert f"backend {name!r} of airflow-stepop-broken" in text
        assert words in text
    available = {line[0]: line[2] for line in answer["list"]}
    assert [available[name] for name in ("local", "flock", *broken)] == [True, True, *[False] * 5]
