"""Deleting what steps leave behind: jobs that nobody owns, and stored data that nothing needs any more.

For ``airflow stepop``, which runs beside Airflow's database; no task, trigger or DAG file imports it.
"""
