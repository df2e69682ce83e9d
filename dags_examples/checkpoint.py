"""A training loop with checkpoints: after a kill, preemption, failure or clear it goes on where it ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, task


@dag(schedule=None, catchup=False, tags=["stepop"], params={"epochs": 10, "pause_s": 0.1})
def checkpoint() -> None:
    """Train for some epochs, and save the state after each epoch."""

    @task.remote_step(checkpoint=True, retries=3, retry_delay=timedelta(seconds=1))
    def train(params: Any = None) -> dict[str, Any]:  # Airflow passes the context's params
        """Minimise (w - 4)**2, one step an epoch."""
        import json
        import os
        import time
        from pathlib import Path

        saved = Path(os.environ["STEPOP_CHECKPOINT_DIR"]) / "state.json"
        state = {"epoch": 0, "weight": 0.0}
        if saved.exists():
            state = json.loads(saved.read_text())
            print(f"going on at epoch {state['epoch']}")
        begun_at = state["epoch"]
        while state["epoch"] < params["epochs"]:
            time.sleep(params["pause_s"])  # the hard work
            state = {"epoch": state["epoch"] + 1, "weight": state["weight"] - 0.4 * (state["weight"] - 4)}
            draft = saved.with_suffix(".new")
            draft.write_text(json.dumps(state))
            draft.replace(saved)  # atomic: a killed step leaves the old or the new file, never half of one
        return {**state, "begun_at": begun_at}

    @task
    def report(result: dict[str, Any]) -> str:
        line = (
            f"w = {result['weight']:.3f} after {result['epoch']} epochs, {result['begun_at']} of them before"
        )
        print(line)
        return line

    report(train())


checkpoint()
