"""The provider info, checked with Airflow's own schemas and managers."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.provider_info import get_provider_info
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INFO = get_provider_info()
OPTIONS = INFO["config"]["stepop"]["options"]


def resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_follows_airflows_schemas() -> None:
    """Both of Airflow's schemas accept the provider info.

    A violation would break every DAG of the deployment.
    """
    import airflow
    import jsonschema

    folder = Path(airflow.__file__).parent
    schema = json.loads((folder / "provider_info.schema.json").read_text())
    jsonschema.validate(INFO, schema)
    jsonschema.validate(json.loads(json.dumps(INFO)), schema)


def test_package_name_is_the_distributions() -> None:
    """With another spelling, Airflow cannot import ``task`` at all."""
    assert INFO["package-name"] == PROJECT["name"] == "airflow-stepop"


def test_version_is_one() -> None:
    """The package and its metadata have the same version, and no option claims a later one."""
    import airflow_stepop

    assert airflow_stepop.__version__ == PROJECT["version"]
    assert {option["version_added"] for option in OPTIONS.values()} <= {PROJECT["version"]}


@pytest.mark.parametrize(
    "path",
    [
        *[row["class-name"] for row in INFO["task-decorators"]],
        *[row["hook-class-name"] for row in INFO.get("connection-types", [])],
        *INFO["extra-links"],
        *INFO["cli"],
        *[value.replace(":", ".") for group in PROJECT["entry-points"].values() for value in group.values()],
    ],
)
def test_named_objects_exist(path: str) -> None:
    """Every object that the provider info names by a dotted path can be imported."""
    assert resolve(path) is not None


def test_airflow_finds_the_decorator() -> None:
    """``@task.remote_step`` exists once the package is installed."""
    from airflow.sdk import task

    assert task.remote_step is resolve("airflow_stepop.decorators.remote_step")


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_airflow_knows_the_option(name: str) -> None:
    """Airflow's configuration returns the default of every option in the option's type."""
    from airflow.sdk.configuration import conf

    option = OPTIONS[name]
    read = {"boolean": conf.getboolean, "float": conf.getfloat, "integer": conf.getint, "string": conf.get}[
        option["type"]
    ]
    floats = {"86400": "86400.0", "30": "30.0", "10": "10.0"} if option["type"] == "float" else {}
    assert str(read("stepop", name)) == floats.get(option["default"], option["default"])


def test_options_in_use_are_described() -> None:
    """The code reads exactly the ``[stepop]`` options that the provider info describes."""
    code = "\n".join(path.read_text() for path in (ROOT / "airflow_stepop").rglob("*.py"))
    used = set(re.findall(r"""conf\.get\w*\(\s*["']stepop["'],\s*["'](\w+)["']""", code))
    assert used == set(OPTIONS)


def test_the_plugin_lets_airflow_read_results() -> None:
    """Once the plugin is loaded, Airflow can read the result of a step."""
    from airflow.sdk import plugins_manager
    from airflow.sdk.serde import deserialize, serialize

    import airflow_stepop.plugin as ours

    assert plugins_manager.is_valid_plugin(ours.StepopPlugin)
    assert ours.StepopPlugin.name == "stepop"
    assert callable(deserialize)
    assert callable(serialize)
