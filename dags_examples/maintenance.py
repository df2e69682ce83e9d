"""Clean up: sweep orphaned jobs, and delete stored data that nothing needs any more.

Both commands need Airflow's database, and Airflow hides the database from tasks with environment variables.
This DAG unsets these variables. So it works where the worker reads the database's address from its
``airflow.cfg``, for example if all of Airflow runs on one host. If the address comes from the environment, or
if workers cannot reach the database, run both commands where you run ``airflow db clean``: by cron, or in a
Kubernetes CronJob.
"""

from __future__ import annotations

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag

SHOW_DATABASE = "unset AIRFLOW__DATABASE__SQL_ALCHEMY_CONN AIRFLOW__CORE__SQL_ALCHEMY_CONN"


@dag(schedule=None, catchup=False, tags=["stepop"], max_active_runs=1)  # later: schedule="@daily"
def maintenance() -> None:
    """Sweep first, then collect: the stored data of a swept job become garbage once they are old enough."""
    sweep = BashOperator(task_id="sweep", bash_command=f"{SHOW_DATABASE}; airflow stepop sweep --yes")
    collect = BashOperator(task_id="collect", bash_command=f"{SHOW_DATABASE}; airflow stepop gc --yes")
    sweep >> collect


maintenance()
