"""A small project beside the DAG file."""
