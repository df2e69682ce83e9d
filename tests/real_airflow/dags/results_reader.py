"""Reads results of another DAG, whose classes this file does not have."""

from __future__ import annotations

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, default_args={"retries": 0})
def results_reader():
    @task
    def check_other_dag():
        ti = get_current_context()["ti"]
        found = ti.xcom_pull(dag_id="results", task_ids="first", include_prior_dates=True)
        assert type(found).__name__ == "Point"
        assert found.x == 1
        assert ti.xcom_pull(dag_id="results", task_ids="numbers", include_prior_dates=True) == [1, 2, 3]
        return found

    @task.remote_step
    def check_passed_on(point):
        assert (type(point).__name__, point.x) == ("Point", 1)

    @task
    def pull():
        return get_current_context()["ti"].xcom_pull(dag_id="results", task_ids="numbers", include_prior_dates=True)

    check_passed_on(check_other_dag())
    pull()


results_reader()
