"""Steps whose argument and result go through a store that a test disconnects."""

from __future__ import annotations

import os

from airflow.sdk import DAG, get_current_context, task
from crash_steps import MARKS, CrashStep, hold

STORE = os.environ.get("STEPOP_TEST_STORE", "")
ARGUMENT = bytes(range(250)) * 8000


class StoredStep(CrashStep):
    """Returns its argument twice. Argument and result are too large for the request."""

    result = "cat argument.bin argument.bin > result.bin"

    def __init__(self, **kwargs):
        super().__init__(store=STORE, inputs={"argument.bin": ARGUMENT}, outputs=["result.bin"], **kwargs)

    def _open(self, context):
        session = super()._open(context)
        session.request.own_hook.inline_limit = 20_000
        return session


@task(retries=0)
def read(name: str, is_held: bool) -> int:
    """Load the result. The step's XCom has only a reference to it."""
    context = get_current_context()
    if is_held:
        hold(f"{MARKS}/crash_store.read_{name}.{context['run_id']}")
    value = context["ti"].xcom_pull(task_ids=name)["result.bin"]
    assert value == ARGUMENT * 2
    return len(value)


if STORE:
    with DAG("crash_store", schedule=None):
        for name, point in {
            "submitting": "intended",
            "fetching": "submitting",
            "writing": "",
            "written": "",
        }.items():
            step = StoredStep(task_id=name, hold_at=point)
            step >> read.override(task_id=f"read_{name}")(name, name == "written")
