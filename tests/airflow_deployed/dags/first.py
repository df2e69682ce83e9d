"""Smoke test: a value goes to a step and comes back, once in the worker and once in the triggerer."""

from __future__ import annotations

import subprocess
import time

from airflow.sdk import dag, task


@dag(schedule=None)
def first():
    def log_warning():
        import logging

        logging.getLogger("a.library").warning("careful")

    @task
    def load():
        log_warning()
        return [1, 2, 3]

    @task.remote_step
    def here(data):
        print("hello from the step")
        log_warning()
        return sum(data)

    @task.remote_step(deferrable=True)
    def deferred(data):
        print("hello from the deferred step", flush=True)
        log_warning()
        subprocess.run(["sh", "-c", "echo hello from its child >&2"], check=True)
        time.sleep(4)
        print("seconds later")
        return {"sum": sum(data)}

    @task
    def report(one, two):
        print(f"REPORT {one} {two}")

    data = load()
    report(here(data), deferred(data))


first()
