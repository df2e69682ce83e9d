"""``airflow stepop sweep`` and ``gc``: jobs that nobody owns, data that nothing needs.

Nothing is done without ``--yes``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_stepop.cli.output import Row, command, complain, print_rows, shown_duration
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.upkeep.orphans import Action, Orphan, find_orphans, retention_s
from airflow_stepop.upkeep.places import deployment, find_jobs, usable_places

if TYPE_CHECKING:
    from argparse import Namespace


@command
def sweep_command(args: Namespace) -> None:
    """Print the jobs that no live task owns; with ``--yes``, cancel and delete them."""
    if args.yes and not deployment():
        raise StepConfigError(
            "[stepop] deployment is not set, so the jobs of another Airflow without one could not be told "
            "from ours. Give every Airflow a name of its own before you sweep with --yes"
        )
    problems: list[str] = []
    now = time.time()
    jobs = find_jobs(usable_places(problems.append, args.conn_id), {}, problems.append)
    orphans = list(
        find_orphans(
            jobs,
            now=now,
            min_age_s=args.min_age * 60,
            retention_s=retention_s(args.retention),
            complain=problems.append,
        )
    )
    unwanted = [orphan for orphan in orphans if orphan.action is not Action.KEEP]
    if args.yes:
        problems += sweep(unwanted)
    print_rows([_row(orphan, now) for orphan in unwanted], args.output)
    if args.output == "table":
        _sum_up(orphans, is_done=args.yes)
    if complain(problems):
        raise SystemExit(1)


def sweep(orphans: Sequence[Orphan]) -> list[str]:
    """Cancel and delete; return what did not work. One that fails does not save the others."""
    problems = []
    for orphan in orphans:
        act = orphan.job.hook.cancel if orphan.action is Action.CANCEL else orphan.job.hook.delete
        try:
            act(orphan.job.handle)
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            problems.append(f"could not {orphan.action} {orphan.job.handle}: {error or type(error).__name__}")
    return problems


def _row(orphan: Orphan, now: float) -> Row:
    job = orphan.job
    return {
        "action": orphan.action.value,
        "job": job.handle.name,
        "backend": str(job.place),
        "state": job.status.state.value,
        "age": shown_duration(now - job.found.created_at),
        "dag": job.label("dag_id"),
        "run": job.label("run_id"),
        "task": job.label("task_id"),
        "map_index": job.label("map_index"),
        "reason": orphan.reason,
    }


def _sum_up(orphans: Sequence[Orphan], *, is_done: bool) -> None:
    count = Counter(orphan.action for orphan in orphans)
    said = f"{count[Action.CANCEL]} to cancel, {count[Action.DELETE]} to delete"
    if is_done:
        said = f"{count[Action.CANCEL]} cancelled, {count[Action.DELETE]} deleted"
    if count[Action.KEEP]:
        said += f", {count[Action.KEEP]} finished and kept"
    is_left = not is_done and count[Action.CANCEL] + count[Action.DELETE]
    print(f"{said}. Nothing was done: add --yes" if is_left else said)
