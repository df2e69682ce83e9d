"""The commands ``airflow stepop sweep`` (orphaned jobs) and ``airflow stepop gc`` (unneeded stored data).

Without ``--yes`` both commands only print what they would do. ``maintenance`` finds the jobs and the data.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from airflow_stepop.cli.output import (
    TABLES,
    Row,
    command,
    complain,
    print_rows,
    shown_duration,
    shown_time,
)
from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import StepConfigError
from airflow_stepop.inventory.places import all_stores, all_targets
from airflow_stepop.inventory.targets import deployment, find_jobs
from airflow_stepop.maintenance.orphans import Action, Orphan, find_orphans, retention_s

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_stepop.maintenance.garbage import Garbage


@command
def sweep_command(args: Namespace) -> None:
    """Print the jobs that no live task owns. With ``--yes``, cancel and delete these jobs.

    :raises StepConfigError: ``--yes`` without ``[stepop] deployment``
    """
    if args.yes and not deployment():
        raise StepConfigError(
            "[stepop] deployment is not set. Jobs of another Airflow without a deployment name would look "
            "like jobs of this one. Give every Airflow its own name before you sweep with --yes"
        )
    problems: list[str] = []
    now = time.time()
    jobs = find_jobs(all_targets(problems.append, args.conn_id), {}, problems.append)
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
        problems += sweep(orphans)
    print_rows([_row(orphan, now) for orphan in unwanted], args.output)
    if args.output in TABLES:
        _sum_up(orphans, is_done=args.yes)
    if complain(problems):
        raise SystemExit(1)


def sweep(orphans: Sequence[Orphan]) -> list[str]:
    """Cancel or delete each orphan; return one message for each failure. A failure does not stop the rest.

    An orphan that is kept loses its secret input: no task has seen its end.
    """
    problems = []
    for orphan in orphans:
        hook = orphan.job.hook
        acts = {Action.CANCEL: hook.cancel, Action.DELETE: hook.delete, Action.KEEP: hook.delete_secrets}
        if orphan.action is Action.KEEP and orphan.is_collected:
            continue
        try:
            acts[orphan.action](orphan.job.handle)
        except Exception as error:  # noqa: BLE001, RUF100 - whatever an SDK raises
            problems.append(f"could not {orphan.action} {orphan.job.handle}: {error or type(error).__name__}")
    return problems


def _row(orphan: Orphan, now: float) -> Row:
    job = orphan.job
    return {
        "action": orphan.action.value,
        "job": job.handle.name,
        "backend": str(job.target),
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
    report = f"{count[Action.CANCEL]} to cancel, {count[Action.DELETE]} to delete"
    if is_done:
        report = f"{count[Action.CANCEL]} cancelled, {count[Action.DELETE]} deleted"
    if count[Action.KEEP]:
        report += f", {count[Action.KEEP]} finished and kept"
    is_left = not is_done and count[Action.CANCEL] + count[Action.DELETE]
    print(f"{report}. Nothing was done: add --yes" if is_left else report)


# --- gc


@command
def gc_command(args: Namespace) -> None:
    """Print the stored data that nothing needs any more. With ``--yes``, delete this data."""
    from airflow_stepop.maintenance.garbage import delete, find_garbage
    from airflow_stepop.maintenance.requirements_cache import describe_caches

    if args.yes:
        _check_own_stores()
    kept_s = retention_s(args.retention)
    if kept_s is None:
        print_rows([], args.output)
        complain(["the retention is 0 days, so everything is kept for ever"])
        return
    problems: list[str] = []
    garbage = find_garbage(now=time.time(), retention_s=kept_s, complain=problems.append)
    if args.yes:
        garbage = delete(garbage, problems.append)
    rows = [_line(one, args.output) for one in garbage] if args.each else _sums(garbage, args.output)
    print_rows(rows, args.output)
    if args.output in TABLES and garbage:
        size = shown_size(sum(one.size for one in garbage))
        print(f"{size} deleted" if args.yes else f"{size} to delete. Nothing was done: add --yes")
    if args.output in TABLES:
        for text in describe_caches():
            print(f"On this host there are {text}")
    if complain(problems):
        raise SystemExit(1)


def _check_own_stores() -> None:
    """Refuse to collect in a store that another Airflow without a deployment name may share.

    :raises StepConfigError: a store or the local folder is configured, and ``[stepop] deployment`` is not set
    """
    from airflow.sdk.configuration import conf

    from airflow_stepop.stores.configured import configured_stores

    options = ("store", "extra_stores", "local_folder")
    named = [f"[stepop] {option} is set" for option in options if conf.get("stepop", option, fallback="")]
    if deployment():
        return
    known = {store.url for store in configured_stores()}
    named += [
        f"a connection names the store {store}"
        for store in all_stores(lambda text: None)
        if store.url not in known
    ]
    if named:
        raise StepConfigError(
            f"{named[0]}, but [stepop] deployment is not. Results of another Airflow "
            "without a deployment name would look like results of this one. Give every Airflow its own name "
            "before you run gc with --yes"
        )


def _line(one: Garbage, output: str) -> Row:
    return {
        "kind": one.kind.value,
        "where": one.place,
        "name": one.name,
        "objects": one.count,
        "bytes": shown_size(one.size) if output in TABLES else one.size,
        "last_written": shown_time(one.newest_at),
    }


def _sums(garbage: Iterable[Garbage], output: str) -> list[Row]:
    """Return one row for each kind of garbage in each store or backend."""
    sums: dict[tuple[str, str], list[Garbage]] = {}
    for one in garbage:
        sums.setdefault((one.kind.value, one.place), []).append(one)
    return [
        {
            "kind": kind,
            "where": place,
            "count": len(ones),
            "objects": sum(one.count for one in ones),
            "bytes": shown_size(size) if output in TABLES else size,
            "oldest": shown_time(min(one.newest_at for one in ones)),
        }
        for (kind, place), ones in sorted(sums.items())
        for size in [sum(one.size for one in ones)]
    ]
