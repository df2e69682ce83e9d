"""The public names and the cost of importing them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import airflow_stepop

SOURCE = Path(airflow_stepop.__file__)
HEAVY = {"boto3", "botocore", "sagemaker", "vertexai", "azure", "modal", "kubernetes", "kubernetes_asyncio"}
HEAVY |= {"cloudpickle", "obstore", "numpy", "pandas", "pyarrow"}


def test_all_is_exact() -> None:
    """``__all__`` lists what the package offers to a type checker and at run time."""
    tree = ast.parse(SOURCE.read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert {*typed, "__version__"} == set(airflow_stepop.__all__)
    assert airflow_stepop.__all__ == sorted(airflow_stepop.__all__)
    assert dir(airflow_stepop) == airflow_stepop.__all__
    for name in airflow_stepop.__all__:
        assert getattr(airflow_stepop, name) is not None


def test_every_error_is_public() -> None:
    """A user can catch every error that the package raises on purpose by a public name."""
    from airflow_stepop import exceptions

    errors = {name for name, value in vars(exceptions).items() if isinstance(value, type)}
    assert errors <= set(airflow_stepop.__all__)


def test_unknown_name() -> None:
    """An unknown name raises AttributeError, as for any module."""
    with pytest.raises(AttributeError, match="nothing"):
        _ = airflow_stepop.nothing


def loaded_by(code: str) -> set[str]:
    """Return the modules that ``code`` loads in a fresh interpreter beyond those of ``airflow.sdk``."""
    program = (
        "import sys\nfrom airflow.sdk import DAG, BaseOperator, dag, task\nbefore = set(sys.modules)\n"
        f"{code}\nprint('\\n'.join(set(sys.modules) - before))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(shown.stdout.split())


def test_a_dag_file_loads_nothing_heavy() -> None:
    """The decorator, the operator and the resources load no SDK, no pickler and no object store."""
    names = "RemoteStepOperator, ResourceSettings, remote_step"
    loaded = loaded_by(f"from airflow_stepop import {names}\ntask.remote_step\nremote_step(lambda: 1)")
    assert "airflow_stepop.decorators" in loaded
    for name in ("signatures", "hooks.base", "hooks.settings", "connections", "lifecycle"):
        assert f"airflow_stepop.{name}" not in loaded
    assert not {name for name in loaded if name.split(".")[0] in HEAVY or name.startswith("google.cloud")}


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("local", {}),
        ("kubernetes", {"node_selector": {"zone": "a"}}),
        ("sagemaker", {"role": "arn:aws:iam::123456789012:role/r", "instance_type": "ml.g5.xlarge"}),
    ],
)
def test_a_dag_file_with_settings_loads_no_hook(backend, settings) -> None:
    """The settings of a backend are checked while a DAG file is read, without what only a worker needs."""
    image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/steps:1" if backend != "local" else None
    arguments = f"backend={backend!r}, settings={settings!r}, image={image!r}"
    loaded = loaded_by(
        "from airflow_stepop import ResourceSettings\n"
        f"@task.remote_step({arguments}, resource_settings=ResourceSettings(cpu_count=1))\n"
        "def step():\n    return 1\n"
        "with DAG('d', schedule=None):\n    step()"
    )
    assert f"airflow_stepop.hooks.{backend}.settings" in loaded
    for name in (f"hooks.{backend}.hook", "hooks.base", "hooks.common.staging", "payload.build", "stores"):
        assert f"airflow_stepop.{name}" not in loaded
    assert not {name for name in loaded if name.split(".")[0] in HEAVY}


def test_the_plugin_loads_almost_nothing() -> None:
    """Every Airflow process imports the plugin. It loads few modules: ours and Python's own."""
    loaded = loaded_by("import airflow_stepop.plugin")
    assert not {
        name for name in loaded if name.split(".")[0] not in {"airflow_stepop", *sys.stdlib_module_names}
    }
    assert not loaded & {
        f"airflow_stepop.{name}" for name in ("operators", "hooks.base", "lifecycle", "registry")
    }
