"""Good and bad uses of ``remote_step``. test_types.py lets mypy check this file; it never runs.

A line that mypy must refuse ends with the code of the error. A line with ``reveal_type`` ends with the type
that mypy must reveal.
"""

from datetime import timedelta
from typing import Any, reveal_type

from airflow.sdk import XComArg, dag, task
from airflow.sdk.bases.decorator import Task

from airflow_stepop import MoreMemory, RemoteStepRetryPolicy, ResourceSettings, remote_step


@remote_step
def bare(rows: int, rate: float = 0.1) -> dict[str, float]:
    return {"loss": rows * rate}


@remote_step()
def called(rows: int) -> int:
    return rows


@remote_step(
    backend="kubernetes",
    conn_id="gpu",
    resource_settings=ResourceSettings(cpu_count=2, memory="4GiB"),
    settings={"namespace": "ml"},
    image="python:3.12",
    env={"LEVEL": "info"},
    secrets={"TOKEN": "{{ conn.hf.password }}"},
    requirements=["scikit-learn==1.5"],
    include="{{ params.files }}",
    timeout=timedelta(hours=1),
    start_timeout=600,
    store="file:///srv/stepop",
    deferrable=True,
    keep="always",
    on_oom=MoreMemory(cap="64GiB"),
    poll_interval=1.5,
    checkpoint=True,
    debug=None,
    multiple_outputs=False,
    task_id="everything",
    retries=3,
    retry_policy=RemoteStepRetryPolicy(),
    execution_timeout=timedelta(hours=2),
    pool="gpus",
)
def everything(rows: int) -> int:
    return rows


@remote_step(resource_settings={"memory": "1GiB"}, on_oom={"cap": "2GiB"}, keep=None)
async def asynchronous(rows: int) -> int:
    return rows


@dag(schedule=None)
def typed() -> None:
    @task
    def load() -> int:
        return 1

    rows = load()
    result = bare(rows, rate=0.2)
    reveal_type(result)  # airflow.sdk.definitions.xcom_arg.XComArg
    reveal_type(bare.function)  # def (rows: int, rate: float =) -> dict[str, float]
    reveal_type(bare.expand(rows=[1, 2]))  # airflow.sdk.definitions.xcom_arg.XComArg
    reveal_type(called(3))  # airflow.sdk.definitions.xcom_arg.XComArg
    bare.partial(rate=0.5).expand(rows=called.expand(rows=[1, 2]))
    bare.override(task_id="other", backend="local")(rows)
    bare.partial(rate=0.1).override(pool="gpus").expand_kwargs([{"rows": 1}])
    everything(asynchronous(rows))
    as_task: Task[[int], int] = everything
    last: XComArg = as_task(1)
    print(last)


@remote_step(backend=3)  # error: call-overload
def no_backend() -> None: ...


@remote_step(bakend="local")  # error: call-overload
def misspelt() -> None: ...


@remote_step(keep="sometimes")  # error: call-overload
def no_keep() -> None: ...


@remote_step(timeout="1h")  # error: call-overload
def no_timeout() -> None: ...


@remote_step(resource_settings="4GiB")  # error: call-overload
def no_resources() -> None: ...


@remote_step(secrets=["TOKEN"])  # error: call-overload
def no_secrets() -> None: ...


@remote_step(command=["true"])  # error: call-overload
def no_command() -> None: ...


@remote_step(retries="three")  # error: call-overload
def no_retries() -> None: ...


number: int = bare(1)  # error: assignment
wrong: dict[str, Any] = called.function(1)  # error: assignment
bare.expland(rows=[1])  # error: attr-defined
