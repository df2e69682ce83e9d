"""Benchmarks of steps on the cluster of ``KUBECONFIG``, compared with Airflow's KubernetesPodOperator.

``benchmarks/__main__.py`` calls ``tables(room)`` of each module but ``cluster.py``.
"""
