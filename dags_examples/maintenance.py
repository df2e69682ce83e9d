"""Clean up: sweep jobs that nobody owns, and delete stored data that nothing needs any more.

Airflow hides its database from tasks, and these two commands need it. This DAG takes the hiding back, which
works where the worker reads the address of the database from its ``airflow.cfg``: on one host, say. Where the
address comes from the environment, or workers cannot reach the database at all, run the two commands beside
``airflow db clean`` instead: by cron, or in a Kubernetes CronJob.
"""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag

SHOW_DATABASE = "unset AIRFLOW__DATABASE__SQL_ALCHEMY_CONN AIRFLOW__CORE__SQL_ALCHEMY_CONN"


@dag(schedule=None, catchup=False, tags=["stepop"], max_active_runs=1)  # schedule="@daily", once you trust it
def maintenance() -> None:
    """Sweep, then collect: what a swept job has stored is garbage when it is old enough."""
    sweep = BashOperator(task_id="sweep", bash_command=f"{SHOW_DATABASE}; airflow stepop sweep --yes")
    collect = BashOperator(task_id="collect", bash_command=f"{SHOW_DATABASE}; airflow stepop gc --yes")
    sweep >> collect


maintenance()
