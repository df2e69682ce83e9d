"""Steps that somebody watches from outside: metrics, listeners, phases."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

SECRET = "a-value-that-nobody-may-see"

with DAG("observed", schedule=None, default_args={"retries": 0}):

    @task.remote_step
    def works(size, word=""):
        import time

        time.sleep(0.5)
        return b"x" * size

    works(100_000)
    works.override(task_id="waits_in_the_triggerer", deferrable=True)(1)

    @task.remote_step
    def fails(word):
        raise ValueError(word)

    fails("its own error")

    talks = {"debug": True, "env": {"A_SECRET": SECRET}}
    works.override(task_id="talks", **talks)(100_000, word=SECRET)
    works.override(task_id="talks_deferred", deferrable=True, **talks)(1, word=SECRET)
    fails.override(task_id="talks_and_fails", debug=True)("short")
    RemoteStepOperator(
        task_id="talks_as_command", command=["sh", "-c", f": {SECRET}; cat in > out"], debug=True,
        inputs={"in": SECRET}, outputs=["out"],
    )  # fmt: skip
    works.override(task_id="silent", debug=False)(1)
