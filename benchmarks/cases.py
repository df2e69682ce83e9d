"""The three costs that have a budget, each beside a peer and beside the least that it could be."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import code_cost, is_installed, process_cost
from benchmarks.tables import Line

AIRFLOW = "from airflow.sdk import DAG, BaseOperator, dag, task"
OURS = "from airflow_stepop import RemoteStepOperator, ResourceSettings; import airflow_stepop.decorators"
POD = "from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator"
PIPES = """
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    pipes.report_custom_message({"value": 1})
"""


def import_lines() -> Iterator[Line]:
    """CPU milliseconds that a DAG file pays for its imports."""
    base = code_cost(AIRFLOW)
    yield Line("airflow.sdk, which every DAG file loads", base.cpu_s * 1e3, f"{base.modules} modules")
    ours = code_cost(OURS, before=AIRFLOW)
    yield Line("airflow_stepop on top of it", ours.cpu_s * 1e3, f"{ours.modules} modules", goal=20)
    plugin = code_cost("import airflow_stepop.plugin", before=AIRFLOW)
    yield Line("its plugin, in every Airflow process", plugin.cpu_s * 1e3, f"{plugin.modules} modules")
    if is_installed("airflow.providers.cncf.kubernetes"):
        pod = code_cost(POD, before=AIRFLOW)
        yield Line("KubernetesPodOperator on top of it", pod.cpu_s * 1e3, f"{pod.modules} modules")
    else:
        yield Line("KubernetesPodOperator on top of it", None, "not installed")


def step_lines(folder: Path) -> Iterator[Line]:
    """CPU milliseconds of a process that does nothing, and of one that does nothing as a step."""
    bare = process_cost([sys.executable, "-c", "pass"]).cpu_s * 1e3
    yield Line("python3 -c pass", bare)
    step = process_cost(_step(folder)).cpu_s * 1e3
    yield Line("a no-op step (runner: check, fork, run, write)", step - bare, "over bare python3", goal=60)
    if is_installed("dagster_pipes"):
        argv, env = _pipes(folder)
        yield Line(
            "a no-op Dagster Pipes session",
            process_cost(argv, env=env).cpu_s * 1e3 - bare,
            "over bare python3",
        )
    else:
        yield Line("a no-op Dagster Pipes session", None, "not installed")


def byte_lines() -> Iterator[Line]:
    """Kilobytes that travel for a small step."""
    from airflow_stepop.payload import FunctionCall, build_payload
    from airflow_stepop.zipapp import runner_zipapp

    call = FunctionCall(function=_small_function(), args=({"lr": 0.1},), kwargs={"epochs": 3}, reference=None)
    payload = build_payload(call, job="s-bench", nonce="0" * 16, split="no", is_result_wanted=True)
    runner = len(runner_zipapp())
    yield Line("the runner (step.pyz)", runner / 1e3)
    yield Line("manifest, function and arguments", payload.inline_bytes / 1e3)
    yield Line("all that is shipped for a small step", (runner + payload.inline_bytes) / 1e3, goal=40)


def _small_function() -> Callable[..., Any]:
    def train(data: dict[str, float], epochs: int = 1) -> float:
        weight = 0.0
        for _ in range(epochs):
            weight -= data["lr"] * 2 * (weight - 4)
        return weight

    return train


def _step(folder: Path) -> list[str]:
    """Return the command of a no-op step, ready to run any number of times."""
    from airflow_stepop.payload import FunctionCall, build_payload
    from airflow_stepop.runner import protocol
    from airflow_stepop.zipapp import runner_zipapp

    call = FunctionCall(function=_noop(), args=(), kwargs={}, reference=None)
    nonce = secrets.token_hex(8)
    payload = build_payload(call, job="s-bench", nonce=nonce, split="no", is_result_wanted=True)
    (folder / "in").mkdir()
    (folder / "out").mkdir()
    parts = {name: part.data for name, part in payload.parts.items() if part.data is not None}
    for name, data in {
        **parts,
        protocol.MANIFEST: payload.manifest,
        protocol.RUNNER: runner_zipapp(),
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
    """Return the command of a Pipes session whose context and messages are files, and its environment."""
    from dagster_pipes import encode_param

    context = folder / "context.json"
    context.write_text(json.dumps({"run_id": "1", "job_name": None, "retry_number": 0, "extras": {}}))
    env = {
        "DAGSTER_PIPES_CONTEXT": encode_param({"path": str(context)}),
        "DAGSTER_PIPES_MESSAGES": encode_param({"path": str(folder / "messages")}),
    }
    return [sys.executable, "-c", PIPES], env
