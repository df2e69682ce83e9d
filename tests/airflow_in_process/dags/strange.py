"""Strange and right, or strange and refused."""

from __future__ import annotations

from airflow.sdk import DAG, task


def made_elsewhere():
    names = {"__name__": __name__}
    exec(compile("def gone():\n    return 42\n", "/gone/dag.py", "exec"), names)
    return names["gone"]


with DAG("strange", schedule=None, default_args={"retries": 0}):

    @task.remote_step
    def length(text):
        return len(text)

    @task.remote_step
    def half_a_character():
        raise ValueError("no such file: caf\udce9.csv, \ud800")

    @task.remote_step
    def of_a_module_that_is_only_there():
        import sys
        import types

        module = types.ModuleType("only_there")
        exec("class Model:\n    pass\n", module.__dict__)
        sys.modules["only_there"] = module
        return module.Model()

    @task
    def reads(model):
        return str(model)

    @task.remote_step
    def nothing():
        return []

    @task.remote_step
    def same(task):
        return task

    @task.remote_step
    def many_lines():
        raise ValueError("x" * 100_000_000)

    length("x" * 10_000)
    task.remote_step(made_elsewhere())()
    half_a_character()
    reads(of_a_module_that_is_only_there())
    length.override(task_id="mapped").expand(text=nothing())
    same.override(task_id="a_b")("a_b" * 30_000)
    same.override(task_id="a-b")("a-b" * 30_000)
    many_lines()
    length.override(task_id="broken_extra", conn_id="broken_extra")("x")
