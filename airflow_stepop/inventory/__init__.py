"""The backends in use, their connections and jobs, and the records in Airflow's database. Read-only.

Only the commands of ``airflow stepop`` and ``maintenance`` import this package. They have access to Airflow's
database; tasks, triggers and DAG files have none and never import it.
"""
