"""Waiting for a job: the code that the worker (``lifecycle/``) and the trigger (``triggers.py``) share."""
