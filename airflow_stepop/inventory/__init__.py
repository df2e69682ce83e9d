"""What there is: backends and what reaches them, their jobs, and what Airflow's database says. Reads only.

For ``airflow stepop``, which runs beside Airflow's database; no task, trigger or DAG file imports it.
"""
