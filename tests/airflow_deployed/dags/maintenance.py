"""The example DAG in a deployment with a name, and a DAG whose command gets no database from Airflow."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

os.environ["AIRFLOW__STEPOP__DEPLOYMENT"] = "maintenance-tests"  # the tasks inherit it
exec((Path(__file__).parents[3] / "dags_examples" / "maintenance.py").read_text())

with DAG("no_database", schedule=None):
    BashOperator(task_id="sweep", bash_command="airflow stepop sweep 2>&1; echo exit code $?")
