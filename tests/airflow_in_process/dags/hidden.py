"""Steps with secrets. Each returns a digest of what it got, and prints it as well as it can."""

from __future__ import annotations

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

REFERENCE = "arn:aws:secretsmanager:eu-west-1:111122223333:secret:hidden-AbCdEf"
TOKEN = {"TOKEN": "{{ conn.hidden_conn.password }}"}
SUM = 'printf %s "$TOKEN" | sha256sum | cut -c-64 | sed "s/.*/\\"&\\"/" > sum.json; echo "token: $TOKEN"'


@task.remote_step(secrets=TOKEN)
def function():
    import hashlib
    import os

    print("token:", os.environ["TOKEN"])
    return hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest()


@task.remote_step(secrets=TOKEN)
def mapped(number):
    import hashlib
    import os

    print("token", number, os.environ["TOKEN"])
    return hashlib.sha256(os.environ["TOKEN"].encode()).hexdigest()


@task.remote_step
def failing():
    import os

    raise PermissionError(f"no access with {os.environ['TOKEN']}")


def command(task_id, secrets=TOKEN, **options):
    made = {"command": ["sh", "-c", SUM], "outputs": ["sum.json"], "secrets": secrets, **options}
    return RemoteStepOperator(task_id=task_id, **made)


with DAG("hidden", schedule=None, default_args={"retries": 0}):
    function()
    function.override(task_id="variable", secrets={"TOKEN": "{{ var.value.hidden_variable }}"})()
    function.override(task_id="together", secrets={"TOKEN": "{{ params.a }}-{{ conn.hidden_conn.password }}"},
                      params={"a": "x"})()  # fmt: skip
    function.override(task_id="extra", secrets={"TOKEN": "{{ conn.hidden_conn.extra_dejson.key }}"})()
    function.override(task_id="reference", secrets={"TOKEN": f"{REFERENCE}:key::"})()
    failing.override(secrets=TOKEN)()
    mapped.expand(number=[1, 2])
    command("command")
    RemoteStepOperator.partial(task_id="mapped_command", secrets=TOKEN, outputs=["sum.json"]).expand(
        command=[["sh", "-c", SUM]]
    )
    RemoteStepOperator.partial(
        task_id="mapped_secrets", outputs=["sum.json"], command=["sh", "-c", SUM]
    ).expand(secrets=[TOKEN, {"TOKEN": "{{ var.value.hidden_variable }}"}])
    command("no_connection", {"TOKEN": "{{ conn.hidden_nowhere.password }}"})
    command("no_variable", {"TOKEN": "{{ var.value.hidden_nowhere }}"})
    command("no_password", {"TOKEN": "{{ conn.hidden_empty.password }}"})
    command("empty", {"TOKEN": "{{ conn.hidden_conn.password[:0] }}"})
    command("no_such_field", {"TOKEN": "{{ {}[conn.hidden_conn.password] }}"})
    command("not_a_template", {"TOKEN": "{{ conn.hidden_conn.password"})

with DAG("hidden_native", schedule=None, render_template_as_native_obj=True):
    function.override(secrets={"TOKEN": "{{ conn.hidden_number.password }}"})()
