"""What a step shares with ordinary tasks: Python's logging, and modules that import Airflow."""

from __future__ import annotations

import inside_shared
from airflow.sdk import DAG, task
from inside_shared import log_all, secret_of_db, threshold

GIVEN = {"AIRFLOW_VAR_THRESHOLD": "{{ 1 + 1 }}"}


def to_log():
    import logging
    import warnings

    print("printed")
    logging.info("of the root logger")
    logging.getLogger("airflow.task").warning("of the task's logger")
    log_all()
    warnings.simplefilter("always")
    warnings.warn("careful", stacklevel=1)
    logging.getLogger().setLevel(logging.DEBUG)
    logging.debug("of the lowest level")
    try:
        int("x")
    except ValueError:
        logging.exception("with a traceback")


with DAG("inside", schedule=None, default_args={"retries": 0}):
    task(task_id="logs_task")(to_log)()
    for deferrable in (False, True):
        suffix = "deferred" if deferrable else "waiting"
        task.remote_step(deferrable=deferrable, task_id=f"logs_{suffix}")(to_log)()

    task.remote_step(task_id="reads")(threshold)(default=1)
    task.remote_step(task_id="given", env=GIVEN)(threshold)(default=1)
    task.remote_step(task_id="secret", secrets={"AIRFLOW_CONN_DB": "{{ conn.hidden.get_uri() }}"})(
        secret_of_db
    )()
    task.remote_step(task_id="no_connection")(secret_of_db)()

    @task.remote_step
    def home():
        import os

        from airflow.configuration import AIRFLOW_HOME

        return [AIRFLOW_HOME, os.environ["STEPOP_WORK"], inside_shared.threshold.__module__]

    home()
