"""A small project next to the DAG file ``mixed_pipeline.py``, which uses it."""
