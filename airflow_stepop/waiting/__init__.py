"""Waiting for a job, in the worker and in the triggerer."""
