"""Recognizes a container whose process could not be executed. ``job_states.py`` calls this module.

The container counts as started, ends at once with an exit code below 128, and its log has one line of the
container runtime: ``exec /usr/bin/python3: argument list too long``. The functions are pure.

https://github.com/opencontainers/runc/blob/v1.2.0/libcontainer/standard_init_linux.go
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_stepop.core.units import shown_size
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.kubernetes.pods import NEVER_BEGUN, receipt_of, run_of
from airflow_stepop.hooks.kubernetes.settings import step_of

if TYPE_CHECKING:
    from airflow_stepop.hooks.kubernetes.objects import Json

_LINE = re.compile(r"(?:.*exec user process caused:?|exec \S+:) \"?(?P<why>[a-z][a-z ]+)\"?$")
TOO_LONG = "argument list too long"
VARIABLE_BYTES = (
    128 << 10
)  # limit of one variable, on nodes with pages of 4 KiB: man execve, "Limits on size"


def may_be_one(pod: Json | None) -> bool:
    """Return whether the step's container ended so that its log must be read to know why."""
    run = run_of(pod)
    code = run.get("exitCode")
    if pod is None or code is None or not 0 < code < 128 or run.get("reason") in NEVER_BEGUN:
        return False
    return receipt_of([pod]) is None


def is_one(lines: Sequence[str]) -> bool:
    """Return whether the whole log of a container is the runtime's line."""
    return len(lines) == 1 and _LINE.match(lines[0]) is not None


def failure_of(line: str, job: Json, code: int | None) -> Failure:
    """Return the failure.

    :param line: the runtime's line
    :param job: the Job with all its fields; its environment is measured
    """
    found = _LINE.match(line)
    why = found["why"] if found is not None else line
    summary = f"The step's process could not be started: {line}"
    if why != TOO_LONG:
        hint = "use an image for the architecture of the node, with a python3 that can be executed"
        return Failure(Category.BAD_CONFIG, summary, why, code, hint)
    hint = (
        f"Linux takes at most {shown_size(VARIABLE_BYTES)} in one variable, and about 2 MiB in all: pass "
        "large values as arguments of the function, or as a file"
    )
    return Failure(Category.BAD_CONFIG, f"{summary}. {_size(job)}", why, code, hint)


def _size(job: Json) -> str:
    """Return the size of the step's environment, as far as the Job shows it."""
    step = step_of((job.get("spec") or {}).get("template", {}).get("spec") or {})
    sizes = {one["name"]: _bytes(one) for one in step.get("env") or () if one.get("value") is not None}
    if not sizes:
        return "Its environment is too large"
    largest = max(sizes, key=lambda name: sizes[name])
    listed = f"Its environment has {shown_size(sum(sizes.values()))}, of which {largest} has "
    more = "; the variables of env_from and valueFrom come in addition" if _has_more(step) else ""
    return f"{listed}{shown_size(sizes[largest])}{more}"


def _bytes(variable: Json) -> int:
    return len(f"{variable['name']}={variable['value']}".encode())


def _has_more(step: Json) -> bool:
    own = "STEPOP_"
    return bool(step.get("envFrom")) or any(
        "valueFrom" in one and not one["name"].startswith(own) for one in step.get("env") or ()
    )
