"""The supervisor of a local job: the process that runs one job without Airflow. ``folder.py`` starts it.

The supervisor must start fast. So the modules here import the standard library, each other and
``runner.protocol`` only; ``portable`` imports psutil too.
"""
