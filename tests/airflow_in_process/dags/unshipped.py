"""Steps that read files which the project has, and which were not shipped."""

from __future__ import annotations

import os
import subprocess

import unshipped_at_import
from airflow.sdk import DAG, task
from unshipped_package import reads

from airflow_stepop import RemoteStepOperator

with DAG("unshipped", schedule=None, default_args={"retries": 0}):
    for function in (
        reads.beside,
        reads.by_resources,
        reads.by_pkgutil,
        reads.by_name,
        reads.of_a_package,
        reads.explained,
        reads.with_a_text,
        reads.lists,
    ):
        task.remote_step(task_id=function.__name__)(function)()

    task.remote_step(task_id="nowhere")(reads.nowhere)()
    task.remote_step(task_id="at_import")(unshipped_at_import.depth)()
    task.remote_step(task_id="included", include=["unshipped_package/*.csv"])(reads.beside)()
    task.remote_step(task_id="adds", include=["unshipped_package/*.csv"])(reads.by_resources)()

    @task.remote_step
    def relative():
        return open("unshipped_config.yaml").read()

    relative()

    @task.remote_step
    def relative_and_nowhere():
        return open("out/unshipped_config.yaml").read()

    relative_and_nowhere()

    @task.remote_step
    def elsewhere():
        return open("/no/such/folder/unshipped_config.yaml").read()

    elsewhere()

    @task.remote_step
    def deleted():
        os.remove("unshipped_config.yaml")
        return open("unshipped_config.yaml").read()

    deleted.override(include=["*.yaml"])()

    @task.remote_step
    def a_program():
        subprocess.run([str(reads.HERE.parent / "unshipped_files" / "one.txt")], check=True)

    a_program()

    RemoteStepOperator(task_id="script", command=["python3", "unshipped_script.py"])
    name = "unshipped_config"  # a file that the command line names would be shipped
    RemoteStepOperator(task_id="script_with_path", command=["python3", "unshipped_script.py", name])
    RemoteStepOperator(task_id="shell", command=["sh", "-c", "cat unshipped_config.yaml"])
    RemoteStepOperator(task_id="shell_elsewhere", command=["sh", "-c", "cat /no/unshipped_config.yaml"])
