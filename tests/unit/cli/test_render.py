"""``airflow stepop render`` shows what a task would send, without sending or storing it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DAGS = """
import threading
from dataclasses import dataclass

import numpy as np
import render_near
from airflow.sdk import DAG, task
from airflow_stepop import RemoteStepOperator

LOCK = threading.Lock()


@dataclass
class Options:
    rate: float


with DAG("shown", schedule=None, params={"word": "hello"}):

    @task
    def up():
        return 1

    above = up()

    @task.remote_step(
        env={"WORD": "{{ params.word }}", "PLAIN": "x"},
        secrets={"TOKEN": "{{ var.value.hidden }}"},
        requirements=["scikit-learn==1.5", "numpy"],
        include=["render_data/*.csv"],
    )
    def train(data, grid, options, names, word, ds=None, *, more=None):
        return render_near.helper(data)

    names = ["hunter2", above]
    train(above, np.zeros((3, 2)), Options(0.5), names, "{{ params.word }}", more={"k": "hunter3"})

    @task.remote_step
    def each(item, other):
        return item

    each.partial(other=7).expand(item=[[1, 2], "hunter2"])
    each.override(task_id="each_output").partial(other=7).expand(item=above)

    task.remote_step(task_id="near")(render_near.helper)(Options(1))
    task.remote_step(task_id="near_plain")(render_near.helper)(1)

    @task.remote_step
    def locked(x, ti=None):
        return LOCK

    locked(number for number in [1])

    task.remote_step(task_id="not_included", include=["nothing*"])(render_near.helper)(1)

    RemoteStepOperator(
        task_id="command",
        command=["python3", "render_near.py", "{{ params.word }}"],
        inputs={"{{ params.word }}.json": above, "b.npy": np.zeros(4)},
        outputs=["m.json"],
        workdir="w",
    )
    RemoteStepOperator(task_id="later", command=above)
    RemoteStepOperator(
        task_id="told",
        command=["true"],
        env={
            "URL": "postgres://me:{{ conn.db.password }}@h",
            "API_KEY": "abcdefgh",
            "NAME": "shown \\x1b[2J",
        },
    )
"""


@pytest.fixture
def dag_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("render_near", "render_further"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    store = tmp_path / "store"
    monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"file://{store}")
    folder = tmp_path / "dags"
    (folder / "render_data").mkdir(parents=True)
    (folder / "render_data" / "a.csv").write_text("1,2\n")
    (folder / "render_near.py").write_text("import render_further\n\ndef helper(x): return x\n")
    (folder / "render_further.py").write_text("")
    (folder / "shown.py").write_text(DAGS)
    return folder / "shown.py"


@pytest.fixture
def rendered(stepop: Callable[..., Any], dag_file: Path) -> Callable[..., Any]:
    return lambda task, *words: stepop("render", "shown", task, "-f", str(dag_file), *words)


def types(rows: list[dict[str, Any]], name: str = "argument") -> dict[str, str]:
    return {row[name]: row["type"] for row in rows}


def test_the_payload_of_a_function(rendered: Callable[..., Any], dag_file: Path) -> None:
    """Arguments have types and sizes; files have sizes; variables and secrets have names."""
    payload = rendered("train", "-o", "json").data["payload"]
    function = payload["function"]
    assert (function["name"], function["module"]) == ("train", "shown")
    assert function["file"] == str(dag_file)
    assert function["sent"] == "by value"
    assert function["bytes"] > 100
    assert types(payload["arguments"]) == {
        "data": "the output of up",
        "grid": "numpy.ndarray 3 x 2",
        "options": "Options",
        "names": "list of 2, with the output of up",
        "word": "a template",
        "more": "dict of 1",
        "ds": "a value of Airflow's context",
    }
    sizes = {row["argument"]: row["bytes"] for row in payload["arguments"]}
    assert sizes["grid"] >= 48
    assert sizes["data"] is None
    files = {row["file"]: row["bytes"] for row in payload["files"]}
    assert files == {"render_near.py": 47, "render_further.py": 0, "render_data/a.csv": 4}
    assert payload["archive_bytes"] > 0
    assert payload["requirements"] == ["numpy", "scikit-learn==1.5"]
    assert (payload["env"], payload["secrets"]) == (["PLAIN", "WORD"], ["TOKEN"])


@pytest.mark.parametrize(
    ("task", "output"),
    [
        *(("train", output) for output in ("json", "yaml", "table", "plain")),
        *((task, "yaml") for task in ("command", "each", "each_output", "near")),
    ],
)
def test_no_format_shows_a_value(rendered: Callable[..., Any], task: str, output: str) -> None:
    """A secret has no value here: its variable does not exist, and nobody asks for it."""
    done = rendered(task, "-o", output)
    assert (done.code, done.err) == (0, "")
    assert "hunter" not in done.out
    assert "var.value.hidden" not in done.out
    assert "render_near.py" in done.out
    assert task in done.out


def test_nothing_is_stored(rendered: Callable[..., Any], dag_file: Path) -> None:
    home = Path(os.environ["AIRFLOW_HOME"])
    before = sorted(home.glob("stepop/**/*"))
    rendered("train")
    assert not (dag_file.parents[1] / "store").exists()
    assert sorted(home.glob("stepop/**/*")) == before


def test_a_function_that_the_step_imports(rendered: Callable[..., Any], dag_file: Path) -> None:
    function = rendered("near_plain", "-o", "json").data["payload"]["function"]
    assert function == {
        "name": "helper",
        "module": "render_near",
        "file": str(dag_file.parent / "render_near.py"),
        "sent": "by name: the step imports the module",
        "bytes": 0,
        "python": None,
    }
    assert rendered("near", "-o", "json").data["payload"]["function"]["bytes"] > 0, "the class Options"


def test_the_payload_of_a_command(rendered: Callable[..., Any]) -> None:
    payload = rendered("command", "-o", "json").data["payload"]
    assert payload["command"] == ["python3", "render_near.py", "{{ params.word }}"]
    assert (payload["workdir"], payload["outputs"]) == ("w", ["m.json"])
    assert types(payload["inputs"], "input") == {"hello.json": "the output of up", "b.npy": "numpy.ndarray 4"}
    assert [row["file"] for row in payload["files"]] == ["render_further.py", "render_near.py"]


def test_a_command_that_is_not_known(rendered: Callable[..., Any]) -> None:
    payload = rendered("later", "-o", "json").data["payload"]
    assert payload["command"] == "known only while the DAG runs"
    assert payload["files"] == []


def test_instances_of_a_mapped_step(rendered: Callable[..., Any]) -> None:
    first, second = (
        rendered("each", "-o", "json", "--map-index", index).data["payload"]["arguments"]
        for index in ("0", "1")
    )
    assert types(first) == {"other": "int", "item": "list of 2"}
    assert types(second) == {"other": "int", "item": "str"}
    unknown = types(rendered("each_output", "-o", "json").data["payload"]["arguments"])
    assert unknown["item"] == "known only while the DAG runs"


def test_what_cannot_be_sent_is_said(rendered: Callable[..., Any]) -> None:
    """The rest is shown nevertheless. The exit code is that of a failure."""
    done = rendered("locked", "-o", "json")
    assert done.code == 1
    assert done.data["payload"]["function"]["bytes"] is None
    assert done.data["request"]["labels"]["task_id"] == "locked"
    lines = done.err.splitlines()
    assert all(line.startswith("airflow stepop: the step cannot be sent: ") for line in lines)
    assert "x (a generator) cannot be sent to the step" in lines[0]
    assert "'ti' exists only inside Airflow" in lines[1]
    assert "locked -> LOCK (_thread.lock)" in lines[2]
    done = rendered("not_included")
    assert done.code == 1
    assert "include='nothing*' matches no file" in done.err


def test_the_tables(rendered: Callable[..., Any]) -> None:
    lines = [line.split() for line in rendered("train", "-o", "plain").out.splitlines()]
    assert ["grid", "numpy.ndarray", "3", "x", "2", "176"] in lines
    assert ["secrets", "TOKEN"] in lines
    assert ["labels.task_id", "train"] in lines
    assert next(line[:1] for line in lines if line and line[0].startswith("argv")) == ["argv[0]"]


def test_json_is_one_document(rendered: Callable[..., Any]) -> None:
    assert list(json.loads(rendered("train", "-o", "json").out)) == ["payload", "request"]


@pytest.mark.parametrize("output", ["table", "plain", "json", "yaml"])
def test_secrets_in_variables_are_redacted(
    rendered: Callable[..., Any], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Airflow's page of rendered fields: the secrets of a connection, and variables of such names."""
    monkeypatch.setenv("AIRFLOW_CONN_DB", "postgres://me:hunter4ever@h")
    text = rendered("told", "--output", output).out
    assert "postgres://me:***@h" in text
    assert "hunter4ever" not in text
    assert "abcdefgh" not in text
    assert "API_KEY" in text
    assert "shown" in text
    assert "\x1b" not in text
