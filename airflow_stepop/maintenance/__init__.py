"""Find and delete what steps leave behind: orphaned jobs, and stored data that nothing needs any more.

Only the commands ``airflow stepop sweep`` and ``airflow stepop gc`` import this package. They need Airflow's
database; tasks, triggers and DAG files never import it.
"""
