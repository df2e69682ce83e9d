"""Benchmarks: the cost of airflow-stepop, compared with its peers and with the physical minimum.

``make bench`` runs them through ``__main__.py``. The other modules yield the lines of the tables.
"""
