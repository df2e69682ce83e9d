"""Makes steps without an Airflow task: for the contract suite, and for ``airflow stepop check --run``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_stepop.core.naming import job_name
from airflow_stepop.job import Payload, StepSpec
from airflow_stepop.payload.build import build_payload
from airflow_stepop.payload.call import Call, CommandCall, FunctionCall, Setup
from airflow_stepop.resources import ResourceSettings

TYPICAL_LABELS = {
    "deployment": "contract",
    "dag_id": "dag",
    "run_id": "run",
    "task_id": "task",
    "map_index": "-1",
}


@dataclass(frozen=True)
class Step:
    """The two arguments of a hook's ``submit``: the job's specification and its payload."""

    spec: StepSpec
    payload: Payload


def make_step(call: Call | Sequence[str] | Callable[[], Any], **options: Any) -> Step:
    """Return a step that needs no Airflow task.

    :param call: a command line, a function without arguments, or a whole call
    :param options: fields of :class:`StepSpec` that replace the defaults, and ``secrets``,
        ``secret_references`` and ``requirements`` of :class:`Setup`
    """
    names = ("secrets", "secret_references", "requirements")
    given = {name: options.pop(name) for name in names if name in options}
    setup = Setup(**given, checkpoint="checkpoint_uri" in options)
    nonce = options.pop("nonce", None) or secrets.token_hex(16)
    name = options.pop("name", job_name("contract", "step", nonce))
    if callable(call):
        call = FunctionCall(function=call, args=(), kwargs={}, reference=None)
    elif not isinstance(call, (CommandCall, FunctionCall)):
        call = CommandCall(argv=call, inputs={}, outputs=())
    payload = build_payload(call, job=name, nonce=nonce, setup=setup, split="no", is_result_wanted=True)
    labels = {**TYPICAL_LABELS, "nonce": nonce, **options.pop("labels", {})}
    resources = options.pop("resources", ResourceSettings())
    spec = StepSpec(
        name=name, nonce=nonce, digest=payload.digest, labels=labels, resources=resources, **options
    )
    return Step(spec, payload)
