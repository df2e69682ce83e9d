"""Steps that fail at their first try, and look at what it has left at the second."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_stepop import RemoteStepOperator

SCRIPT = """
cd "$STEPOP_CHECKPOINT_DIR" || exit 1
test -e mark && echo 1 > "$STEPOP_WORK/out.json" && exit
touch mark
exit 3
"""


@task.remote_step(checkpoint=True)
def again(name):
    import os
    from pathlib import Path

    folder = Path(os.environ["STEPOP_CHECKPOINT_DIR"])
    found = [path.read_text() for path in folder.iterdir()]
    if not found:
        (folder / "left").write_text(str(name))
        raise RuntimeError("the first try")
    return found


@task.remote_step(checkpoint=True, retries=0)
def failing():
    import os
    from pathlib import Path

    Path(os.environ["STEPOP_CHECKPOINT_DIR"], "left").touch()
    raise RuntimeError("the only try")


with DAG(
    "resuming",
    schedule=None,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=0.1), "retry_policy": None},
):
    again("mine")
    again.override(task_id="mapped").expand(name=[0, 1])
    failing()
    RemoteStepOperator(task_id="command", command=["sh", "-c", SCRIPT], outputs=["out.json"], checkpoint=True)
