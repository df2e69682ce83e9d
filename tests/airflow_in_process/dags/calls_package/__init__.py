"""A package beside the DAG."""
