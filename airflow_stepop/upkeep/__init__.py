"""Looking after what steps leave behind: which jobs there are, who owns them, what nothing needs any more.

For ``airflow stepop``, which runs beside Airflow's database; no task, trigger or DAG file imports it.
"""
