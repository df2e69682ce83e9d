"""The commands ``airflow stepop jobs``, ``logs`` and ``cancel``.

They see the jobs of this deployment on every backend that ``inventory.targets`` finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_stepop.cli.output import (
    TABLES,
    Row,
    command,
    complain,
    print_rows,
    shown_duration,
    shown_time,
)
from airflow_stepop.core.naming import did_you_mean
from airflow_stepop.core.printable import printable
from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import StepConfigError, StepopError
from airflow_stepop.inventory.places import all_targets
from airflow_stepop.inventory.targets import Job, deployment, find_jobs
from airflow_stepop.lifecycle.usage import used_cores
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.waiting.backoff import Backoff

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_stepop.job import Cursor, JobStatus
    from airflow_stepop.record import StepRecord

CANDIDATES = 10


@command
def jobs_command(args: Namespace) -> None:
    """Print one line for each job."""
    problems: list[str] = []
    given = {"dag_id": args.dag_id, "run_id": args.run_id}
    labels = {name: value for name, value in given.items() if value is not None}
    jobs = list(find_jobs(all_targets(problems.append, args.conn_id), labels, problems.append))
    if not jobs and args.dag_id is not None:
        problems += _unknown_dag(args.dag_id)
    now = time.time()
    rows = [describe_job(job, now, problems) for job in jobs]
    if args.state:
        rows = [row for row in rows if row["state"] in args.state]
    if args.output in TABLES:
        print_rows([_wide(row) if args.wide else _short(row) for row in rows], "plain")
    else:
        print_rows(rows, args.output)
    if complain(problems):
        raise SystemExit(1)


def _unknown_dag(dag_id: str) -> list[str]:
    from airflow_stepop.inventory.database import dag_ids

    known = dag_ids()
    return [] if dag_id in known else [f"there is no DAG {dag_id!r}{did_you_mean(dag_id, known)}"]


def describe_job(job: Job, now: float, problems: list[str]) -> Row:
    status = job.status
    duration_s = None
    if status.started_at is not None:
        duration_s = (status.finished_at or now) - status.started_at
    try:
        link = job.hook.link(job.handle)
    except Exception as error:  # noqa: BLE001, RUF100 - without a link the job is still shown
        link = None
        problems.append(f"no link to {job.handle}: {error}")
    record = record_of_job(job, problems)
    return {
        "job": job.handle.name,
        "state": status.state.value,
        "duration_s": round(duration_s, 1) if duration_s is not None else None,
        "age_s": round(now - job.found.created_at, 1),
        "backend": job.handle.backend,
        "conn_id": job.handle.conn_id,
        "id": job.handle.id,
        "dag_id": job.label("dag_id"),
        "run_id": job.label("run_id"),
        "task_id": job.label("task_id"),
        "map_index": _number(job.label("map_index")),
        "submitted_at": shown_time(job.found.created_at),
        "started_at": shown_time(status.started_at),
        "finished_at": shown_time(status.finished_at),
        "why": _category(status, record),
        "native_state": None if status.state.is_terminal else status.description or None,
        "usage": _usage(record) or dict(status.usage) or None,
        "asked": _asked(record),
        "link": link,
        "labels": dict(job.found.labels),
    }


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None  # a job without this label


def record_of_job(job: Job, problems: list[str]) -> StepRecord | None:
    """Return the record of the job's task; ``None`` if it is gone or leads to another job."""
    from airflow_stepop.inventory.database import TaskKey, record_of

    key = TaskKey.of(job.found.labels)
    try:
        record = record_of(key) if key is not None else None
    except StepopError as error:
        problems.append(str(error))
        return None
    return record if record is not None and record.nonce == job.label("nonce") else None


def _category(status: JobStatus, record: StepRecord | None) -> str | None:
    """Return the category of the failure: the service's, else the one that the step's outcome gave."""
    if status.failure is not None:
        return status.failure.category.value
    failure = (record.collected or {}).get("failure") if record is not None else None
    return failure["category"] if failure and status.state.is_terminal else None


def _usage(record: StepRecord | None) -> Mapping[str, Any] | None:
    """Return the usage that the task has collected; ``None`` before."""
    if record is None or record.collected is None:
        return None
    usage: Mapping[str, Any] | None = record.collected.get("usage")
    return usage


def _asked(record: StepRecord | None) -> Mapping[str, Any]:
    """Return the resources that the job was submitted with; empty if they are unknown."""
    resources: Mapping[str, Any] = (record.asked.get("resources") if record is not None else None) or {}
    return resources


def _short(row: Row) -> Row:
    """Return the columns that fit into 100 characters for usual names."""
    native_state, is_explained, _ = (row["native_state"] or "").partition(": ")
    why = row["why"] or (native_state if is_explained else None)
    usage, asked = row["usage"] or {}, row["asked"]
    cores, peak = used_cores(usage), usage.get("peak_memory_bytes")
    memory = ResourceSettings.from_dict(asked).memory_bytes if asked else None
    return {
        "job": row["job"],
        "state": f"{row['state']} ({why})" if why else row["state"],
        "age": shown_duration(row["age_s"]),
        "task": row["task_id"] + ("" if row["map_index"] in (None, -1) else f"[{row['map_index']}]"),
        "CPU": _of(f"{cores:.2g}" if cores is not None else None, _cores(asked)),
        "memory": _of(shown_size(peak) if peak is not None else None, memory and shown_size(memory)),
    }


def _cores(asked: Mapping[str, Any]) -> str | None:
    count = asked.get("cpu_count")
    return None if count is None else f"{count:g}"


def _of(used: object, asked: object) -> str | None:
    if asked is None:
        return None if used is None else str(used)
    return f"{'-' if used is None else used} of {asked}"


def _wide(row: Row) -> Row:
    return {
        **_short(row),
        "duration": shown_duration(row["duration_s"]),
        "backend": f"{row['backend']} ({row['conn_id']})" if row["conn_id"] else row["backend"],
        "dag": row["dag_id"],
        "run": row["run_id"],
        "link": row["link"],
    }


# --- one job


@command
def logs_command(args: Namespace) -> None:
    """Print the log of a job so far. With ``--follow``, print until the job has ended."""
    job = _the_job(args)
    cursor: Cursor = None
    status: JobStatus = job.status
    backoff = Backoff(job.hook.poll_interval_s)
    while True:
        is_over = status.state.is_terminal
        cursor = _print_new(job, cursor)
        if not args.follow or is_over:
            break
        time.sleep(backoff.after_success())
        status = job.hook.status([job.handle])[job.handle]


def _print_new(job: Job, cursor: Cursor) -> Cursor:
    for chunk in job.hook.chunks(job.handle, cursor):
        for line in chunk.lines:
            print(printable(line.text))
        cursor = chunk.cursor
    print(end="", flush=True)
    return cursor


@command
def cancel_command(args: Namespace) -> None:
    """Ask the job's service to stop the job."""
    job = _the_job(args)
    if job.status.state.is_terminal:
        print(printable(f"{job.handle} has already ended: {job.status.state.value}"))
        return
    job.hook.cancel(job.handle)
    print(printable(f"{job.handle} is being cancelled; its task fails, or is retried if it has retries left"))


def _the_job(args: Namespace) -> Job:
    problems: list[str] = []
    jobs = find_jobs(all_targets(problems.append, args.conn_id), {}, problems.append)
    complain(problems)
    return choose_job(jobs, args.job)


def choose_job(jobs: Sequence[Job], wanted: str) -> Job:
    """Return the job with the name or id ``wanted``, else the only job whose name or id begins with it.

    :raises StepConfigError: no job matches, or several jobs match; the message lists the first ten of them
    """
    names = [(job, (job.handle.name, job.handle.id)) for job in jobs]
    exact = [job for job, own in names if wanted in own]
    found = exact or [job for job, own in names if any(name.startswith(wanted) for name in own)]
    if len(found) == 1:
        return found[0]
    if not found:
        of = f" of the deployment {deployment()!r}" if deployment() else ""
        raise StepConfigError(f"there is no job {wanted!r}{of}; see airflow stepop jobs")
    raise StepConfigError(f"{wanted!r} could be any of {len(found)} jobs:{_listed(found)}")


def _listed(jobs: Iterable[Job]) -> str:
    lines = [
        f"\n  {job.handle.name}  {job.target}  {job.status.state.value}  "
        f"{job.label('dag_id')} {job.label('run_id')} {job.label('task_id')}"
        for job in jobs
    ]
    more = f"\n  and {len(lines) - CANDIDATES} more" if len(lines) > CANDIDATES else ""
    return "".join(lines[:CANDIDATES]) + more
