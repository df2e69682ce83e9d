"""Stores that both Airflow and the steps can reach: their interface, their kinds, and the layout of paths.

Called by ``payload``, ``results``, ``lifecycle``, ``hooks``, ``maintenance`` and the CLI.
"""
