"""What runs a local job without Airflow: its folder, its supervisor, and what they know of processes.

Only ``folder`` may import the rest of the package; the others are the supervisor's, which must start fast.
"""
