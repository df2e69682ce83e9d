"""Steps with secrets that succeed, fail and are killed. Each prints its token in every way it can."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

MARKS = Path(os.environ.get("STEPOP_TEST_MARKS", "/nonexistent"))
SECRETS = {"TOKEN": "{{ conn.stepop_tests.password }}", "KEY": "{{ var.value.stepop_tests_key }}"}


def command(task_id: str, script: str, **options) -> None:
    script = f'echo "$TOKEN $KEY"; echo $$ >> "{MARKS}/secrets_{task_id}.$RUN"; {script}'
    RemoteStepOperator(
        task_id=task_id, command=["sh", "-c", script], env={"RUN": "{{ run_id }}"}, secrets=SECRETS,
        keep="always", **options
    )  # fmt: skip


with DAG("with_secrets", schedule=None):
    command("good", f'while test ! -e "{MARKS}/secrets_go.$RUN"; do sleep 0.1; done', deferrable=True)
    command("killed", "sleep 600", retries=0)

    @task.remote_step(secrets=SECRETS, keep="always")
    def bad():
        raise ConnectionError(f"{os.environ['TOKEN']} {os.environ['KEY']} are not accepted")

    bad()
