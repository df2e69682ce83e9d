"""What is published: the content of the wheel, and whether the extras can be installed beside Airflow."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.support.needs import IS_CI, needs
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = ("3.11", "3.12", "3.13")
SETS = {
    **{python: [python] for python in PYTHONS},
    "floors": ["3.11", "--resolution", "lowest-direct"],
    "sagemaker-sdk": ["3.11", "--extra", "sagemaker-sdk"],
}
Resolved = dict[str, str]  # package -> version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from this checkout without a package index."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    """The wheel has every module of the checkout, and no tests, examples or documentation."""
    names = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "airflow_stepop").rglob("*.py")}
    assert modules | {"airflow_stepop/py.typed"} <= names
    assert {name.split("/")[0] for name in names} == {
        "airflow_stepop",
        f"airflow_stepop-{PROJECT['version']}.dist-info",
    }


def test_the_wheels_metadata(wheel: zipfile.ZipFile) -> None:
    """The wheel has the entry points, the licence and the readme, and declares every extra."""
    (info,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    entry_points = wheel.read(f"{info}/entry_points.txt").decode()
    assert "[apache_airflow_provider]" in entry_points
    assert "[airflow.plugins]" in entry_points
    assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
    metadata = message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert set(metadata.get_all("Provides-Extra") or []) == set(EXTRAS)
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_all_names_every_backend() -> None:
    """``[all]`` includes every extra that can be installed everywhere."""
    from airflow_stepop.registry import BUILTINS

    (everything,) = EXTRAS["all"]
    named = set(everything.partition("[")[2].rstrip("]").split(","))
    assert named >= {builtin.extra for builtin in BUILTINS.values() if builtin.extra}
    assert named == set(EXTRAS) - {"all", "sagemaker-sdk"}


def resolve(target: Path, python: str, *arguments: str) -> Resolved:
    """Return the version of each package that the resolver picks, without installing any."""
    uv = pytest.importorskip("uv").find_uv_bin()
    index = ["--index-url", os.environ["PIP_INDEX_URL"]] if os.environ.get("PIP_INDEX_URL") else []
    command = [uv, "pip", "compile", "pyproject.toml", "--quiet", "--no-annotate", "--no-header", *index]
    command += ["--python-version", python, "--extra", "all", "-o", str(target), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(line.split("==") for line in target.read_text().splitlines() if "==" in line)


@pytest.fixture(scope="module")
def index() -> None:
    """Require a package index that answers. This takes minutes, so it runs only in CI and on request."""
    if not (IS_CI or os.environ.get("STEPOP_INDEX") == "1"):
        pytest.skip("asks the package index for two minutes: make resolve")
    uv = pytest.importorskip("uv").find_uv_bin()
    configured = ["--index-url", os.environ["PIP_INDEX_URL"]] if os.environ.get("PIP_INDEX_URL") else []
    asked = subprocess.run(
        [uv, "pip", "compile", "-", "--quiet", *configured],
        input="cloudpickle",
        capture_output=True,
        text=True,
    )
    needs(asked.returncode == 0, f"a package index that answers: {asked.stderr.strip()[-300:]}")


@pytest.fixture(scope="module")
def resolved(index: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Resolved]]]:
    """Resolve each set of requirements; yield the futures. All sets wait for the index at the same time."""
    folder = tmp_path_factory.mktemp("resolved")
    with ThreadPoolExecutor(len(SETS)) as pool:
        yield {name: pool.submit(resolve, folder / name, *words) for name, words in SETS.items()}


@pytest.mark.index
@pytest.mark.timeout(900)
@pytest.mark.parametrize("python", PYTHONS)
def test_all_extras_resolve_together(resolved: dict[str, Future[Resolved]], python: str) -> None:
    """Airflow 3.3 and all backends have common versions, so Airflow and each single backend have, too."""
    found = resolved[python].result()
    assert found["apache-airflow"].startswith("3.")
    wanted = {"apache-airflow-providers-cncf-kubernetes", "apache-airflow-providers-amazon", "boto3"}
    wanted |= {"google-auth", "google-cloud-aiplatform", "azure-ai-ml", "azure-identity", "modal"}
    assert wanted <= set(found)


@pytest.mark.index
@pytest.mark.timeout(900)
def test_the_floors_resolve(resolved: dict[str, Future[Resolved]]) -> None:
    """The lowest supported versions exist and fit together."""
    assert resolved["floors"].result()["apache-airflow"].startswith("3.3.")


@pytest.mark.index
@pytest.mark.timeout(900)
def test_the_sagemaker_sdk_resolves_on_311(resolved: dict[str, Future[Resolved]]) -> None:
    """With Python 3.11, the pins of the training-image catalogue fit all other extras."""
    assert resolved["sagemaker-sdk"].result()["sagemaker"].startswith("3.")
