"""Reads results of another DAG, whose classes are not in this file."""

from __future__ import annotations

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, default_args={"retries": 0})
def results_reader():
    @task
    def check_other_dag():
        context = get_current_context()
        other = {"dag_id": "results", "run_id": context["dag_run"].conf["run_id"]}
        found = context["ti"].xcom_pull(task_ids="first", **other)
        assert type(found).__name__ == "Point"
        assert found.x == 1
        assert context["ti"].xcom_pull(task_ids="numbers", **other) == [1, 2, 3]
        return found.x

    @task.remote_step
    def check_argument(text):
        assert text == "[1, 2, 3]"

    check_other_dag() >> check_argument(
        "{{ ti.xcom_pull(dag_id='results', task_ids='numbers', run_id=dag_run.conf['run_id']) }}"
    )


results_reader()
