"""``airflow stepop list``, ``describe`` and ``render``, in this process and as a user calls them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from airflow_stepop.cli import backends, render
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.hooks.base import BackendSettings

DAGS = """
from airflow.sdk import DAG, BaseOperator, task
from airflow_stepop import RemoteStepOperator, ResourceSettings

with DAG("shapes", schedule=None, params={"memory": "256MiB", "word": "hello"}):
    up = BaseOperator(task_id="up")

    wants = ResourceSettings(memory="{{ params.memory }}")

    @task.remote_step(resource_settings=wants, env={"WORD": "{{ params.word }}"})
    def step(x=None):
        return x

    step(up.output)
    step.override(task_id="mapped").expand(x=up.output)
    step.override(task_id="resuming", checkpoint=True, secrets={"T": "{{ conn.none.password }}"})(up.output)
    step.override(task_id="unknown", resource_settings=ResourceSettings(memory=up.output))()
    step.override(task_id="two_nodes", resource_settings=ResourceSettings(nodes=2))()
    RemoteStepOperator(task_id="command", command=["true"], timeout=60, inputs={"a": up.output})
    RemoteStepOperator.partial(task_id="commands", command=["true"]).expand(timeout=[60, 120])
    RemoteStepOperator(task_id="elsewhere", conn_id="nowhere", command=["true"])
"""


@pytest.fixture(scope="module")
def dag_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DAG file with a step of each shape."""
    path = tmp_path_factory.mktemp("dags") / "shapes.py"
    path.write_text(DAGS)
    return path


class Sample(BackendSettings):
    """Options of nothing.

    :param region: where it runs,
        in two lines
    :param size: how large
    """

    region: str
    size: int | None = 3


def test_settings_are_described_from_the_model() -> None:
    """The description of an option has its type, its default, and the text of the model's docstring."""
    assert list(backends.describe_settings(Sample)) == [
        {
            "setting": "region",
            "type": "str",
            "default": "(required)",
            "description": "where it runs, in two lines",
        },
        {"setting": "size", "type": "int | None", "default": 3, "description": "how large"},
    ]


def test_every_setting_of_every_backend_is_described() -> None:
    """No option lacks a description."""
    from airflow_stepop.registry import describe_backends, hook_class

    for backend in describe_backends():
        if backend.is_available:
            rows = list(backends.describe_settings(hook_class(backend.name).settings_model))
            internal = [row for row in rows if "Annotated" in row["type"] or "object at" in row["type"]]
            assert internal == []
            assert [row["setting"] for row in rows if not row["description"]] == []


def test_describe_says_which_resources_are_honoured(tmp_path: Path) -> None:
    """The command renders a request with each resource. A refused one has the reason as its note."""
    from airflow_stepop.registry import create_hook

    rows = {row["resource"]: row for row in backends.describe_resources(create_hook("local"))}
    assert list(rows) == ["cpu_count", "memory", "gpu_count", "gpu_type", "disk", "shm", "nodes"]
    assert rows["memory"]["honoured"] is True
    assert rows["nodes"]["honoured"] is False
    assert "nodes=2" in rows["nodes"]["note"]


def test_sagemaker_is_described_without_a_connection_and_a_store(tmp_path: Path) -> None:
    """The example has no image and no store. This is no fault of a resource."""
    from airflow_stepop.registry import create_hook

    rows = {row["resource"]: row for row in backends.describe_resources(create_hook("sagemaker"))}
    refused = [name for name, row in rows.items() if not row["honoured"]]
    assert refused == ["shm", "nodes"]
    assert rows["shm"]["note"].startswith("shm='64MiB': SageMaker decides")


def rendered(dag_file: Path, task_id: str, map_index: int = 0) -> dict[str, Any]:
    return render.render_request(render.find_task("shapes", task_id, str(dag_file)), map_index)


def test_render_shows_templates_as_values(dag_file: Path) -> None:
    """The request has the values of the templates, rendered with the DAG's default parameters."""
    request = rendered(dag_file, "step")
    assert request["limits"]["memory_bytes"] == 256 * 2**20
    assert request["env"]["WORD"] == "hello"
    assert request["labels"]["dag_id"] == "shapes"
    assert render.PLACEHOLDER in request["argv"]


def test_render_is_the_same_twice(dag_file: Path) -> None:
    """The request depends on neither process nor time, so that a user can store and compare it."""
    assert rendered(dag_file, "step") == rendered(dag_file, "step")


def test_render_of_a_step_whose_arguments_are_not_known(dag_file: Path) -> None:
    """Parts of the request that depend on arguments or connections have a placeholder."""
    request = rendered(dag_file, "resuming")
    folder = request["argv"][request["argv"].index("--checkpoint") + 1]
    assert "/checkpoints/" in folder
    assert folder.endswith("/" + render.PLACEHOLDER[:32])


def test_render_of_a_command(dag_file: Path) -> None:
    """A command's request does not depend on its inputs."""
    assert rendered(dag_file, "command")["limits"]["timeout_s"] == 60


def test_render_of_a_mapped_step(dag_file: Path) -> None:
    """Each instance has its own arguments. The values that the function gets do not matter."""
    assert [rendered(dag_file, "commands", n)["limits"]["timeout_s"] for n in (0, 1)] == [60, 120]
    assert rendered(dag_file, "mapped", 5)["labels"]["map_index"] == "5"


@pytest.mark.parametrize(
    ("task_id", "map_index", "message"),
    [
        ("unknown", 0, "the output of 'up' is known only while the DAG runs"),
        ("two_nodes", 0, "nodes=2"),
        ("up", 0, "not a remote step"),
        ("nothing", 0, "no task 'nothing'; it has up, step"),
        ("commands", 7, "no instance 7"),
    ],
)
def test_render_says_why_it_cannot(dag_file: Path, task_id: str, map_index: int, message: str) -> None:
    """A step that cannot be rendered is refused with the reason."""
    with pytest.raises(StepConfigError, match=message):
        rendered(dag_file, task_id, map_index)


def test_render_of_a_broken_dag_file(tmp_path: Path) -> None:
    """If a DAG is missing because its file does not load, the error says so."""
    (tmp_path / "broken.py").write_text("from airflow.sdk import DAG\nraise ValueError('no luck')\n")
    with pytest.raises(StepConfigError, match=r"no DAG 'broken'.*\n.*no luck"):
        render.find_task("broken", "t", str(tmp_path))


def test_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An error that the user can correct is printed as one line, without a traceback."""
    with pytest.raises(
        SystemExit, match=r"^airflow stepop: there is no backend 'locl'; did you mean 'local'\?"
    ):
        backends.describe_command(Namespace(backend="locl", output="table", verbose=False, fit=None))


def test_describe_as_a_table_and_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    """The table is for people, the other formats are for programs."""
    backends.describe_command(Namespace(backend="local", output="table", verbose=False, fit=None))
    assert "grace_period_s" in capsys.readouterr().out
    backends.describe_command(Namespace(backend="local", output="json", verbose=False, fit=None))
    described = json.loads(capsys.readouterr().out)
    assert described["backend"] == "local"
    assert {"setting", "type", "default", "description"} == set(described["settings"][0])


def test_get_commands_loads_nothing() -> None:
    """Each call of ``airflow`` imports this module, so it must load no hook, no SDK and no model."""
    code = (
        "import sys; import airflow.cli.cli_config, airflow_stepop; before = set(sys.modules); "
        "from airflow_stepop.cli import get_commands; get_commands(); "
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('airflow.')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["airflow_stepop.cli"]


@pytest.fixture(scope="module")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Airflow home with an empty database."""
    home = tmp_path_factory.mktemp("home")
    airflow(home, "db", "migrate")
    return home


def airflow(home: Path, *words: str, **env: str) -> str:
    """Return the output of the real command."""
    done = run_airflow(home, *words, **env)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def run_airflow(home: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    clean |= {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "airflow", *words]
    return subprocess.run(command, capture_output=True, text=True, env=clean | env)


def test_list_names_backends_and_connections(airflow_home: Path) -> None:
    """The real command lists all backends, and for each the connections that lead to it."""
    stored = {"conn_type": "aws", "extra": {"backend": "local"}}
    airflow(airflow_home, "connections", "add", "here", "--conn-json", json.dumps(stored))
    printed = airflow(airflow_home, "stepop", "list", "-o", "json", AIRFLOW_CONN_GPU="kubernetes://")
    rows = {row["backend"]: row for row in json.loads(printed)}
    assert list(rows)[:6] == ["local", "kubernetes", "sagemaker", "vertex", "azureml", "modal"]
    assert rows["local"]["usable"] is True
    assert rows["local"]["connections"] == ["here"]
    assert rows["kubernetes"]["connections"] == ["gpu"]
    assert all(row["what_to_do"] for row in rows.values() if not row["usable"])


NO_DATABASE = "airflow stepop: Airflow's database cannot be read: no such table: .*; .*airflow db migrate"


def test_list_before_there_is_a_database(tmp_path: Path) -> None:
    """A new user's first command lists the backends, and says in one line how to create the database."""
    done = run_airflow(tmp_path, "stepop", "list", "-o", "json", AIRFLOW_CONN_GPU="kubernetes://")
    rows = {row["backend"]: row for row in json.loads(done.stdout)}
    assert rows["kubernetes"]["connections"] == ["gpu"]
    (output,) = done.stderr.splitlines()
    assert re.fullmatch(NO_DATABASE, output)
    assert done.returncode == 0


def test_a_command_that_needs_the_database_says_so(tmp_path: Path) -> None:
    done = run_airflow(tmp_path, "stepop", "gc")
    (output,) = done.stderr.splitlines()
    assert re.fullmatch(NO_DATABASE, output)
    assert done.returncode == 1


def test_render_as_a_user_calls_it(airflow_home: Path, dag_file: Path) -> None:
    """The real command prints one JSON document and nothing else."""
    printed = airflow(airflow_home, "stepop", "render", "shapes", "step", "-f", str(dag_file), "-o", "json")
    document = json.loads(printed)
    assert document["request"]["labels"]["task_id"] == "step"
    assert document["payload"]["function"]["name"] == "step"


def test_render_without_the_connection_of_the_task(airflow_home: Path, dag_file: Path) -> None:
    """A connection gives defaults to the request. Without it, the command prints one line that names it."""
    done = run_airflow(airflow_home, "stepop", "render", "shapes", "elsewhere", "-f", str(dag_file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "airflow stepop: The conn_id `nowhere` isn't defined; the request depends on the defaults of this "
        "connection\n"
    )
