"""Run one task of an Airflow DAG on other infrastructure."""
