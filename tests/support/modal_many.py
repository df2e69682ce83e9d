"""Many sandboxes that run nothing, with the handles that a submit would give."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor

from airflow_stepop.connections.modal import client_of
from airflow_stepop.hooks.common.sealing import seal_key
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.hooks.modal.private import Seen
from airflow_stepop.hooks.modal.settings import ModalSettings
from airflow_stepop.hooks.modal.tags import JOB, RESULTS, to_tags
from airflow_stepop.job import JobHandle
from airflow_stepop.runner.protocol import RECEIPT_PREFIX
from airflow_stepop.runner.sealing import receipt_mac
from tests.support.modal import Modal
from tests.support.modal_steps import LABELS

THREADS = 8
LONG_S = 1e6  # of a sandbox that does not end by itself


def receipt_line(handle: JobHandle) -> str:
    """Return the last line of the log of a job, as its runner writes it."""
    digest = "0" * 64
    mac = receipt_mac(seal_key(handle.detail["nonce"]), digest, 1)
    return RECEIPT_PREFIX + json.dumps({"digest": digest, "size": 1, "mac": mac})


def simulated(hook: ModalStepHook, server: Modal, count: int) -> list[JobHandle]:
    """Create sandboxes without a process, and return when all of them run.

    ``server.do("plan", sandbox=NAME, end="SUCCESS")`` ends one.
    """
    import modal

    server.do("plan", sandbox="s-many-*", run=False, run_s=LONG_S)
    here = hook._for(ModalSettings())
    app, client = here.service.app(create=True), client_of(hook._account)
    image = modal.Image.debian_slim()
    image.build(app)

    def one(number: int) -> JobHandle:
        name = f"s-many-{number:06}-{secrets.token_hex(6)}"
        labels = {**LABELS, "map_index": str(number), "nonce": secrets.token_hex(16)}
        made = modal.Sandbox.create(
            "true",
            app=app,
            name=name,
            image=image,
            tags=to_tags({**labels, RESULTS: "file:///srv/results", JOB: name}),
            timeout=86_000,
            client=client,
        )
        return hook._handle(here, Seen(made.object_id, name), labels, "file:///srv/results")

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(one, range(count)))
