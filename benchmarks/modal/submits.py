"""One submit, by each way. ``submitting.py`` runs each in a fresh process, as a worker does.

Nothing is imported before it is needed, since the imports are a part of the cost.
"""

from __future__ import annotations

import io
import os
import time
import uuid
from typing import Any

TOKEN = "STEPOP_BENCH_TOKEN"  # id and secret


def bare() -> float:
    """Create a sandbox with a Volume, and put a file of 40 kB into it, with ``modal`` alone."""
    began = time.perf_counter()
    import modal

    client = modal.Client.from_credentials(*os.environ[TOKEN].split())
    app = modal.App.lookup("bare", client=client, create_if_missing=True)
    volume = modal.Volume.from_name("bare", create_if_missing=True, version=2, client=client)
    name = f"bare-{uuid.uuid4().hex[:12]}"
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(os.urandom(40_000)), f"/{name}/program")
    modal.Sandbox.create(
        "true",
        app=app,
        name=name,
        image=modal.Image.from_registry("python:3.12"),
        volumes={"/bare": volume},
        timeout=3600,
        client=client,
    )
    return time.perf_counter() - began


def ours() -> float:
    """Pickle a function with its arguments, put them into the Volume, and create the sandbox."""
    began = time.perf_counter()
    from airflow_stepop.hooks.modal.hook import ModalStepHook
    from airflow_stepop.payload.call import FunctionCall
    from airflow_stepop.payload.standalone import make_step
    from airflow_stepop.stores.configured import open_store

    def train(data: dict[str, float], epochs: int = 1) -> float:
        return data["lr"] * epochs

    call = FunctionCall(function=train, args=({"lr": 0.1},), kwargs={"epochs": 3}, reference=None)
    store = open_store(os.environ["AIRFLOW__STEPOP__STORE"])
    step = make_step(call, image="python:3.12", result_uri=store.uri(f"results/{uuid.uuid4().hex}"))
    ModalStepHook().submit(step.spec, step.payload)
    return time.perf_counter() - began


WAYS: dict[str, Any] = {"bare": bare, "ours": ours}
