"""Steps that ask for packages."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

ENV = {
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": "{{ var.value.packages_wheels }}",
    "STEPOP_CACHE": "{{ var.value.packages_cache }}",
}


@task.remote_step(env=ENV, requirements=["stepop_dep=={{ params.version }}"], params={"version": "1.0"})
def listed():
    import stepop_base
    import stepop_dep

    return [stepop_dep.VERSION, stepop_base.VERSION]


with DAG("packages", schedule=None, default_args={"retries": 0}):
    listed()
    listed.override(task_id="from_file", requirements="packages_requirements.txt")()
    listed.override(task_id="missing", requirements=["stepop_dep==7"])()
    listed.override(task_id="no_file", requirements="packages_nowhere.txt")()
    RemoteStepOperator.partial(
        task_id="mapped", env=ENV, outputs=["out.json"], command=["sh", "-c", "stepop-tool > out.json"]
    ).expand(requirements=[["stepop_tool"], ["stepop_tool==1.0"]])
