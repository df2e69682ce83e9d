"""The DAGs of the crash table; see ``crash_steps.py``."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG
from crash_steps import POINTS, Asking, BrokenTrigger, CrashStep, Importing, NoRoom

WAYS = {"running": {}, "deferred": {"deferrable": True}}

with DAG("crash_workers", schedule=None):
    for point in (point for point in POINTS if point != "resumed"):
        CrashStep(task_id=point, die_at=point)
    for point in ("saved", "resumed", "seen", "finishing", "read", "collected", "returning"):
        CrashStep(task_id=f"{point}_deferred", die_at=point, deferrable=True)
    CrashStep(task_id="told_to_end")

with DAG("crash_users", schedule=None):
    for way, arguments in WAYS.items():
        for what in ("failed", "success", "cleared", "cleared_twice"):
            CrashStep(task_id=f"{what}_{way}", **arguments)
        CrashStep(task_id=f"out_of_time_{way}", execution_timeout=timedelta(seconds=50), **arguments)
        CrashStep(task_id=f"cleared_after_{way}", **arguments)
    CrashStep(task_id="out_of_time_submitting", execution_timeout=timedelta(seconds=30), hold_at="submitting")
    CrashStep(task_id="failed_submitting", hold_at="submitting")
    CrashStep(task_id="failed_submitted", hold_at="submitted")
    Asking(task_id="failed_asking")
    Importing(task_id="failed_importing")

with DAG("crash_scheduler", schedule=None):  # a DAG of its own, so that no task of the run is cleared
    CrashStep(task_id="taken_for_dead")

with DAG("crash_run_timeout", schedule=None, dagrun_timeout=timedelta(seconds=75)):
    for way, arguments in WAYS.items():
        CrashStep(task_id=way, **arguments)

with DAG("crash_full", schedule=None):
    NoRoom(task_id="waits")
    NoRoom(task_id="killed")
    NoRoom(task_id="breaks", breaks=True)
    NoRoom(task_id="failed")
    NoRoom(task_id="out_of_time", pause_s=600, execution_timeout=timedelta(seconds=20))

with DAG("crash_triggerer", schedule=None):
    CrashStep(task_id="killed", deferrable=True)
    CrashStep(task_id="moved", deferrable=True)
    CrashStep(task_id="elsewhere", deferrable=True)
    BrokenTrigger(task_id="broken", deferrable=True)

with DAG("crash_unwatched", schedule=None):
    CrashStep(task_id="step", deferrable=True)

with DAG("crash_jobs", schedule=None):
    for victim in ("runner", "supervisor", "step"):
        for way, arguments in WAYS.items():
            CrashStep(task_id=f"{victim}_{way}", **arguments)

with DAG("crash_gone", schedule=None):
    for way, arguments in WAYS.items():
        CrashStep(task_id=f"killed_{way}", hold_at="finishing", die_at="finishing", **arguments)
    CrashStep(task_id="resuming", hold_at="resumed", deferrable=True)
    CrashStep(task_id="reporting", hold_at="resumed", die_at="collected", deferrable=True)
    own = {"retries": 2, "retry_delay": timedelta(seconds=1)}
    CrashStep(task_id="own_retries", hold_at="resumed", deferrable=True, **own)

with DAG("crash_services", schedule=None):
    CrashStep(task_id="submitting", hold_at="submitting")
    CrashStep(task_id="running")
    CrashStep(task_id="deferred", deferrable=True)
    CrashStep(task_id="returning", hold_at="returning")

with DAG("crash_deployments", schedule=None):
    CrashStep(task_id="step")
