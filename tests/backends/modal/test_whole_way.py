"""A step in a sandbox, from its request to its outcome, with the public API of the SDK alone."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_stepop.connections.modal import ModalAccount, client_of
from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.hooks.common.receipts import find_receipt
from airflow_stepop.hooks.modal import ModalSettings
from airflow_stepop.hooks.modal.objects import Objects, create_arguments
from airflow_stepop.hooks.modal.request import VOLUME_VERSION, Submitted, job_folder, sandbox_request
from airflow_stepop.runner.protocol import RUNNER
from airflow_stepop.testing import Step, make_step
from tests.support.modal import Modal


def larger() -> bytes:
    print("in a sandbox")
    return b"x" * 100_000


@pytest.mark.usefixtures("modal_containers")
def test_a_step_runs_as_its_request_says(modal_server: Modal, account: ModalAccount) -> None:
    """The runner finds its input in the Volume, and leaves its outcome there; the log has the receipt."""
    import modal

    client, made = client_of(account), make_step(larger)
    objects = Objects(client, None)
    volume = objects.own_volume("airflow-stepop", VOLUME_VERSION)
    args, named = create_arguments(
        uploaded(made, volume), client, objects.app("airflow-stepop"), own_secret=None
    )
    sandbox = modal.Sandbox.create(*args, **named)
    sandbox.wait()
    lines = sandbox.stdout.read().splitlines()
    assert sandbox.returncode == 0, lines
    assert "in a sandbox" in lines
    folder = job_folder(made.spec)
    outcome = b"".join(volume.read_file(f"{folder}/out/outcome.json"))
    receipt = find_receipt(lines)
    assert receipt is not None
    assert hashlib.sha256(outcome).hexdigest() == receipt.digest
    assert json.loads(outcome)["status"] == "success"
    left = {one.path.removeprefix(f"{folder}/") for one in volume.listdir(folder, recursive=True)}
    assert len({path for path in left if path.startswith("out/")}) == 2, (
        "outcome.json, and the result's bytes"
    )
    assert any(path.startswith("started") for path in left), left


def uploaded(made: Step, volume: Any) -> dict[str, Any]:
    """Upload the input of a step; return its request."""
    features = made.payload.features | {"mounted", "once", "sealed", "synced"}
    files = input_files(replace(made.payload, features=features), made.spec, has_output_folder=True)
    with volume.batch_upload() as batch:
        for name, file in files.items():
            batch.put_file(io.BytesIO(file.data), f"/{job_folder(made.spec)}/in/{name}")
    runner = hashlib.sha256(files[RUNNER].data).hexdigest()
    known = Submitted(made.payload.digest, runner, seal="ab" * 32, input_folder="in")
    return sandbox_request(made.spec, ModalSettings(), known)
