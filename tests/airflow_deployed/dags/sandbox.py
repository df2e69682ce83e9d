"""Steps that run in sandboxes of Modal until their test lets them go."""

from __future__ import annotations

import os

from airflow.sdk import DAG, task
from waiting_steps import MARKS, dags_of

GPU = {"gpu": "T4"}


def saves(mark):
    """Save a checkpoint, and wait; with a checkpoint, go on."""
    import os
    import time
    from pathlib import Path

    saved = Path(os.environ["STEPOP_CHECKPOINT_DIR"]) / "half"
    begun_at = saved.read_text() if saved.exists() else "the beginning"
    saved.write_text("the half")
    with Path(f"{mark}.started").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(f"{mark}.go").exists():
        time.sleep(0.1)
    return {"begun_at": begun_at, "job": os.environ["STEPOP_JOB"]}


if "AIRFLOW_CONN_MODAL_DEFAULT" in os.environ:
    globals().update(dags_of("sandbox", for_faults={"deferred": {"settings": GPU}}, backend="modal"))

    with DAG("sandbox_preempted", schedule=None):
        task.remote_step(backend="modal", settings=GPU, checkpoint=True, deferrable=True)(saves)(
            f"{MARKS}/sandbox_preempted"
        )
