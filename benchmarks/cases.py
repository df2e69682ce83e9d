"""Measures the three costs that have a budget, each compared with peers and with the minimum.

``__main__.py`` calls :func:`import_lines`, :func:`step_lines` and :func:`byte_lines`.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import code_cost, is_installed, process_cost
from benchmarks.peers import external_python_s, metaflow_package_bytes, metaflow_step_s, submitit_task_s
from benchmarks.tables import Line

AIRFLOW = "from airflow.sdk import DAG, BaseOperator, dag, task"
OURS = "from airflow_stepop import RemoteStepOperator, ResourceSettings; import airflow_stepop.decorators"
OPERATORS = {
    "KubernetesPodOperator": (
        "from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator"
    ),
    "SageMakerTrainingOperator": (
        "from airflow.providers.amazon.aws.operators.sagemaker import SageMakerTrainingOperator"
    ),
    "Vertex AI's CreateCustomTrainingJob": (
        "from airflow.providers.google.cloud.operators.vertex_ai.custom_job import "
        "CreateCustomTrainingJobOperator"
    ),
}
NOT_INSTALLED = "not installed"
PIPES = """
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    pipes.report_custom_message({"value": 1})
"""


def import_lines() -> Iterator[Line]:
    """Yield the CPU milliseconds that a DAG file pays for its imports."""
    base = code_cost(AIRFLOW)
    yield Line("airflow.sdk, which every DAG file loads", base.cpu_s * 1e3, f"{base.modules} modules")
    ours = code_cost(OURS, before=AIRFLOW)
    yield Line("airflow_stepop on top of it", ours.cpu_s * 1e3, f"{ours.modules} modules", goal=20)
    plugin = code_cost("import airflow_stepop.plugin", before=AIRFLOW)
    yield Line("its plugin, in every Airflow process", plugin.cpu_s * 1e3, f"{plugin.modules} modules")
    for name, code in OPERATORS.items():
        if is_installed(code.split()[1].rpartition(".")[0]):
            cost = code_cost(code, before=AIRFLOW)
            yield Line(f"{name} on top of it", cost.cpu_s * 1e3, f"{cost.modules} modules")
        else:
            yield Line(f"{name} on top of it", None, NOT_INSTALLED)


def step_lines(folder: Path) -> Iterator[Line]:
    """Yield the CPU milliseconds of an empty process, of a no-op step, and of no-op tasks of peers."""
    bare = process_cost([sys.executable, "-c", "pass"]).cpu_s * 1e3
    yield Line("python3 -c pass", bare)
    step = process_cost(_step(folder)).cpu_s * 1e3
    yield Line("a no-op step (runner: check, fork, run, write)", step - bare, "over bare python3", goal=60)
    for name, module, seconds in (
        ("a no-op Dagster Pipes session", "dagster_pipes", lambda: process_cost(*_pipes(folder)).cpu_s),
        ("a Metaflow step, until its code begins", "metaflow", lambda: metaflow_step_s(folder)),
        ("a submitit job, until its code begins", "submitit", lambda: submitit_task_s(folder)),
        (
            "@task.external_python, no Airflow in it",
            "airflow.providers.standard",
            lambda: external_python_s(folder),
        ),
    ):
        if is_installed(module):
            yield Line(name, seconds() * 1e3 - bare, "over bare python3")
        else:
            yield Line(name, None, NOT_INSTALLED)


def byte_lines(folder: Path) -> Iterator[Line]:
    """Yield the kilobytes that are sent for a small step."""
    from airflow_stepop.hooks.common.zipapp import runner_zipapp
    from airflow_stepop.payload.build import build_payload
    from airflow_stepop.payload.call import FunctionCall

    call = FunctionCall(function=_small_function(), args=({"lr": 0.1},), kwargs={"epochs": 3}, reference=None)
    payload = build_payload(call, job="s-bench", nonce="0" * 16, split="no", is_result_wanted=True)
    runner = len(runner_zipapp(payload.features))
    yield Line("the runner (step.pyz)", runner / 1e3)
    yield Line("manifest, function and arguments: new in each step", payload.inline_bytes / 1e3, goal=10)
    yield Line("all that is shipped for a small step", (runner + payload.inline_bytes) / 1e3, goal=40)
    if is_installed("metaflow"):
        yield Line("the code package of Metaflow", metaflow_package_bytes(folder) / 1e3, "once per run")
    else:
        yield Line("the code package of Metaflow", None, NOT_INSTALLED)


def _small_function() -> Callable[..., Any]:
    def train(data: dict[str, float], epochs: int = 1) -> float:
        weight = 0.0
        for _ in range(epochs):
            weight -= data["lr"] * 2 * (weight - 4)
        return weight

    return train


def _step(folder: Path) -> list[str]:
    """Return the command of a no-op step. It may run any number of times."""
    from airflow_stepop.hooks.common.zipapp import runner_zipapp
    from airflow_stepop.payload.build import build_payload
    from airflow_stepop.payload.call import FunctionCall
    from airflow_stepop.runner import protocol

    call = FunctionCall(function=_noop(), args=(), kwargs={}, reference=None)
    nonce = secrets.token_hex(8)
    payload = build_payload(call, job="s-bench", nonce=nonce, split="no", is_result_wanted=True)
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    parts = {name: part.data for name, part in payload.parts.items() if part.data is not None}
    for name, data in {
        **parts,
        protocol.MANIFEST: payload.manifest,
        protocol.RUNNER: runner_zipapp(payload.features),
    }.items():
        (folder / "in" / name).write_bytes(data)
    argv = [sys.executable, "-u", str(folder / "in" / protocol.RUNNER), "run", "--digest", payload.digest]
    argv += ["--in", str(folder / "in"), "--out", str(folder / "out"), "--receipt", str(folder / "receipt")]
    return argv


def _noop() -> Callable[[], None]:
    def nothing() -> None:
        pass

    return nothing


def _pipes(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a Pipes session whose context and messages are files."""
    from dagster_pipes import encode_param

    context = folder / "context.json"
    context.write_text(json.dumps({"run_id": "1", "job_name": None, "retry_number": 0, "extras": {}}))
    env = {
        "DAGSTER_PIPES_CONTEXT": encode_param({"path": str(context)}),
        "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(folder / "messages")}),
    }
    return [sys.executable, "-c", PIPES], env
