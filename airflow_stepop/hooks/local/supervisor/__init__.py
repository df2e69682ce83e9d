"""The supervisor of a local job: what runs it without Airflow, and what that knows of processes.

It must start fast, and imports nothing of the rest of the package but ``runner.protocol``.
"""
