"""The commands ``airflow stepop jobs``, ``logs`` and ``cancel``.

They see the jobs of this deployment on every backend that ``inventory.targets`` finds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_stepop.cli.output import Row, command, complain, print_rows, shown_duration, shown_time
from airflow_stepop.core.printable import printable
from airflow_stepop.exceptions import StepConfigError, StepopError
from airflow_stepop.inventory.targets import Job, deployment, find_jobs, usable_targets
from airflow_stepop.lifecycle.usage import describe
from airflow_stepop.waiting.backoff import Backoff

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_stepop.core.documents import StepUsage
    from airflow_stepop.job import Cursor, JobStatus

CANDIDATES = 10


@command
def jobs_command(args: Namespace) -> None:
    """Print one line for each job."""
    problems: list[str] = []
    given = {"dag_id": args.dag_id, "run_id": args.run_id}
    labels = {name: value for name, value in given.items() if value is not None}
    jobs = find_jobs(usable_targets(problems.append, args.conn_id), labels, problems.append)
    now = time.time()
    rows = [describe_job(job, now, problems) for job in jobs]
    print_rows([_short(row) for row in rows] if args.output == "table" else rows, args.output)
    if complain(problems):
        raise SystemExit(1)


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
    return {
        "job": job.handle.name,
        "state": status.state.value,
        "duration_s": round(duration_s, 1) if duration_s is not None else None,
        "backend": job.handle.backend,
        "conn_id": job.handle.conn_id,
        "id": job.handle.id,
        "dag_id": job.label("dag_id"),
        "run_id": job.label("run_id"),
        "task_id": job.label("task_id"),
        "map_index": job.label("map_index"),
        "submitted_at": shown_time(job.found.created_at),
        "started_at": shown_time(status.started_at),
        "finished_at": shown_time(status.finished_at),
        "why": status.failure.category.value if status.failure else None,
        "native_state": None if status.state.is_terminal else status.description or None,
        "usage": usage_of(job, problems) or dict(status.usage) or None,
        "link": link,
        "labels": dict(job.found.labels),
    }


def usage_of(job: Job, problems: list[str]) -> Mapping[str, Any] | None:
    """Return the usage of the job; ``None`` until the job's task has collected its outcome."""
    from airflow_stepop.inventory.database import TaskKey, record_of

    key = TaskKey.of(job.found.labels)
    try:
        record = record_of(key) if key is not None else None
    except StepopError as error:
        problems.append(str(error))
        return None
    if record is None or record.collected is None or record.nonce != job.label("nonce"):
        return None
    usage: Mapping[str, Any] | None = record.collected.get("usage")
    return usage


def _short(row: Row) -> Row:
    """Return the columns of the table, which must fit on one line."""
    index = row["map_index"]
    task = row["task_id"] if index in ("", "-1") else f"{row['task_id']}[{index}]"
    where = f"{row['backend']} ({row['conn_id']})" if row["conn_id"] else row["backend"]
    native_state, is_explained, _ = (row["native_state"] or "").partition(": ")
    why = row["why"] or (native_state if is_explained else None)
    usage: StepUsage | None = row["usage"]
    return {
        "job": row["job"],
        "state": f"{row['state']} ({why})" if why else row["state"],
        "duration": shown_duration(row["duration_s"]),
        "backend": where,
        "dag": row["dag_id"],
        "run": row["run_id"],
        "task": task,
        "usage": describe({**usage, "hint": ""}).removeprefix("used ") if usage else None,
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
        print(f"{job.handle} has already ended: {job.status.state.value}")
        return
    job.hook.cancel(job.handle)
    print(f"{job.handle} is being cancelled; its task fails, or is retried if it has retries left")


def _the_job(args: Namespace) -> Job:
    problems: list[str] = []
    jobs = find_jobs(usable_targets(problems.append, args.conn_id), {}, problems.append)
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
