"""``airflow stepop sweep``: all reasons why a job has an owner or has none."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import replace
from typing import ClassVar

import pytest

from airflow_stepop.cli.cleaning import sweep
from airflow_stepop.failure import Category, Failure
from airflow_stepop.inventory.targets import Target, find_jobs
from airflow_stepop.job import FoundJob, JobState
from airflow_stepop.maintenance.orphans import Action, find_orphans
from airflow_stepop.record import signed
from airflow_stepop.testing import make_step
from tests.support.memory_backend import MemoryHook, Registered
from tests.support.processes import started
from tests.support.third_party import install_backend
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.timeout(900)]

DEPLOYMENT = "sweep-tests"
ALL = ("sweep", "-o", "json", "--min-age", "0")


@pytest.fixture(autouse=True)
def deployment(monkeypatch):
    """Use a deployment of its own, since other tests leave jobs behind."""
    monkeypatch.setenv("AIRFLOW__STEPOP__DEPLOYMENT", DEPLOYMENT)


@pytest.fixture
def submit(jobs):
    """Return a function that submits a job of this deployment that would run for ten minutes."""

    def start(instance, *argv, **options):
        return jobs.submit(instance, *(argv or ("sleep", "600")), deployment=DEPLOYMENT, **options)

    return start


def found(output):
    return {row["job"]: (row["action"], row["reason"]) for row in output.data}


@pytest.mark.parametrize("state", ["running", "deferred", "up_for_retry", "queued", "scheduled", None])
def test_a_live_task_owns_its_job(stepop, instance, submit, jobs, state):
    """The job of an unfinished task instance is left alone, whatever the instance waits for."""
    handle = submit(instance("quiet", state))
    assert found(stepop(*ALL, "--yes")) == {}
    assert jobs.state(handle) is JobState.RUNNING


@pytest.mark.parametrize("state", ["success", "failed", "skipped", "removed", "upstream_failed"])
def test_a_job_of_a_finished_task_is_cancelled(stepop, instance, submit, jobs, state):
    """No task waits for the job any more. Without --yes the command only lists it."""
    handle = submit(instance("quiet", state))
    assert found(stepop(*ALL)) == {handle.name: ("cancel", f"its task instance has finished ({state})")}
    assert jobs.state(handle) is JobState.RUNNING
    output = stepop(*ALL, "--yes")
    assert (output.code, len(output.data)) == (0, 1)
    assert jobs.wait(handle) is JobState.CANCELLED


def test_a_job_that_another_one_replaced(stepop, instance, submit, jobs):
    """The record of a live task leads to one job. An older job of the same task has no owner."""
    one = instance("quiet")
    old = submit(one)
    new = submit(one)
    assert found(stepop(*ALL, "--yes")) == {
        old.name: ("cancel", f"its task instance has another job, {new.name}")
    }
    assert jobs.wait(old) is JobState.CANCELLED
    assert jobs.state(new) is JobState.RUNNING


def test_a_job_without_a_record(stepop, instance, submit, jobs):
    """A record is saved before its job is submitted, so a job without a record has no owner."""
    one = instance("quiet")
    one.set_record(None)
    handle = submit(one, is_recorded=False)
    assert found(stepop(*ALL)) == {handle.name: ("cancel", "its task instance has no record of it")}


@pytest.mark.parametrize("labels", [{"run_id": "gone"}, {"map_index": "7"}, {"map_index": "x"}])
def test_a_job_whose_task_instance_is_gone(stepop, instance, submit, jobs, labels):
    """The run was deleted, or the mapped task has fewer instances now."""
    handle = submit(instance("quiet"), **labels)
    assert found(stepop(*ALL)) == {handle.name: ("cancel", "its task instance is gone")}


def test_a_young_job_is_left_alone(stepop, instance, submit):
    """The record of a job that was just submitted may not be saved yet."""
    submit(instance("quiet", "failed"))
    assert stepop("sweep", "-o", "json").data == []
    assert stepop("sweep", "-o", "json", "--min-age", "0.5").data == []


def test_a_record_that_cannot_be_read_may_be_the_owner(stepop, instance, submit, jobs):
    """The job of a record that cannot be read is left alone, with a message."""
    one = instance("quiet")
    handle = submit(one)
    one.set_record({"generation": 1})
    output = stepop(*ALL, "--yes")
    assert (output.code, output.data) == (1, [])
    assert f"local job {handle.name} is left alone" in output.err
    one.set_record({"__airflow_state_ref__": "s3://bucket/key"})
    output = stepop(*ALL, "--yes")
    assert (output.code, output.data) == (1, [])
    assert "set [workers] state_store_backend on this host" in output.err
    assert jobs.state(handle) is JobState.RUNNING


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Airflow's object storage backend for task state, in a folder."""
    from airflow.providers.common.io.state_store import backend

    monkeypatch.setenv("AIRFLOW__COMMON_IO__STATE_STORE_OBJECTSTORAGE_PATH", f"file://{tmp_path}/state")
    backend._get_base_path.cache_clear()
    yield backend.StateStoreObjectStorageBackend()
    backend._get_base_path.cache_clear()


def in_a_dict():
    """Return a custom state backend for the server."""
    from airflow.state import BaseStoreBackend

    class InADict(BaseStoreBackend):
        def __init__(self):
            self.values = {}

        def get(self, scope, key, *, session=None):
            return self.values.get((scope, key))

        def set(self, scope, key, value, *, expires_at=None, session=None):
            self.values[scope, key] = value

        def delete(self, scope, key, *, session=None):
            self.values.pop((scope, key), None)

        clear = aget = aset = adelete = aclear = None  # not used here

    return InADict()


def test_records_in_a_state_backend_of_the_server(stepop, instance, submit, monkeypatch):
    """Records are read through Airflow's own class, whichever backend is configured."""
    one = instance("quiet")
    with monkeypatch.context() as patch:
        patch.setattr("airflow.state._backend_instance", in_a_dict())
        old, new = submit(one), submit(one)
        assert list(found(stepop(*ALL))) == [old.name]
        one.set_record(None)
        assert sorted(found(stepop(*ALL))) == sorted([old.name, new.name])


def test_records_in_a_state_backend_of_the_workers(stepop, instance, submit, jobs, elsewhere, monkeypatch):
    """The database then has a reference, and the record is read from the workers' backend."""
    from airflow.sdk.execution_time import context
    from airflow.state import TaskScope

    one = instance("quiet")
    record = one.new_record()
    scope = TaskScope(one.dag_id, one.run_id, one.task_id, one.map_index)
    value = signed(record.to_json(), {**one.labels, "deployment": DEPLOYMENT})
    reference = elsewhere.serialize_task_state_store_to_ref(value=value, key="stepop", scope=scope)
    handle = submit(one, is_recorded=False, nonce=record.nonce)
    other = submit(one, is_recorded=False)
    one.set_record({"__airflow_state_ref__": reference})
    name = f"{type(elsewhere).__module__}.{type(elsewhere).__qualname__}"
    monkeypatch.setenv("AIRFLOW__WORKERS__STATE_STORE_BACKEND", name)
    context._get_worker_state_store_backend.cache_clear()
    try:
        assert list(found(stepop(*ALL))) == [other.name]
    finally:
        context._get_worker_state_store_backend.cache_clear()
    assert jobs.state(handle) is JobState.RUNNING


def test_yes_needs_a_name_of_the_deployment(stepop, instance, jobs, monkeypatch):
    """Without a name, the jobs of another Airflow without a name would look like this one's."""
    monkeypatch.delenv("AIRFLOW__STEPOP__DEPLOYMENT")
    handle = jobs.submit(instance("quiet", "failed"), "sleep", "600")
    assert handle.name in found(stepop(*ALL))
    output = stepop(*ALL, "--yes")
    assert output.code == 1
    assert "[stepop] deployment is not set" in output.err
    assert jobs.state(handle) is JobState.RUNNING


def test_jobs_of_another_deployment_are_left_alone(stepop, instance, jobs):
    """A sweep does not touch jobs with another Airflow's label."""
    handle = jobs.submit(instance("quiet", "failed"), "sleep", "600", deployment="other")
    assert stepop(*ALL, "--yes").data == []
    assert jobs.state(handle) is JobState.RUNNING


FAILURE = Failure(Category.USER_ERROR, "it failed").to_json()
KEPT = [
    ("never", {"result": {}}, "delete"),
    ("never", {"failure": FAILURE}, "delete"),
    ("failed", {"result": {}}, "delete"),
    ("failed", {"failure": FAILURE}, "keep"),
    ("always", {"result": {}}, "keep"),
    ("failed", None, "keep"),
]


@pytest.mark.parametrize(("keep", "collected", "action"), KEPT)
def test_a_finished_job_is_kept_as_its_task_says(stepop, instance, jobs, keep, collected, action):
    """A job that its task would have deleted goes. A kept one stays until the retention has passed."""
    one = instance("quiet", "success")
    handle = jobs.submit(one, "true", deployment=DEPLOYMENT)
    jobs.wait(handle)
    record = one.new_record(nonce=_nonce(jobs, handle), keep=keep, collected=collected)
    one.set_record(record.to_json())
    expected = {handle.name: action} if action == "delete" else {}
    assert {job: what for job, (what, _) in found(stepop(*ALL)).items()} == expected
    assert list(found(stepop(*ALL, "--retention", "0"))) == list(expected)
    assert list(found(stepop(*ALL, "--retention", "0.000000001", "--yes"))) == [handle.name]
    assert jobs.state(handle) is JobState.GONE


def changed(one, record):
    """Put a record of the task instance into its state that somebody has changed."""
    data = signed(record.to_json(), {**one.labels, "deployment": DEPLOYMENT})
    one.set_record({**data, "keep": "never", "collected": {"result": {}}}, is_signed=False)


def test_a_record_that_was_changed_decides_nothing(stepop, instance, submit, jobs):
    """While the task runs, the job may be its own. Afterwards the job ends as one without a record."""
    one = instance("quiet")
    handle = submit(one, is_recorded=False)
    changed(one, one.new_record())
    output = stepop(*ALL, "--yes")
    assert (output.code, output.data) == (1, [])
    assert f"local job {handle.name} is left alone: the record of upkeep.quiet" in output.err
    assert "is not used: it was changed after it was signed" in output.err
    assert jobs.state(handle) is JobState.RUNNING
    one.set_state("success")
    assert found(stepop(*ALL, "--yes"))[handle.name][0] == "cancel"


def test_a_job_that_takes_the_name_after_the_list_is_left_alone(instance, submit, jobs):
    """The sweep acts on the jobs that it has listed, and on no other job of the same name."""
    handle = submit(instance("quiet", "failed"))
    listed = find_jobs([Target("local")], {}, pytest.fail)
    options = {"min_age_s": 0.0, "retention_s": None, "complain": pytest.fail}
    (orphan,) = find_orphans(listed, now=time.time(), **options)
    jobs.hook.cancel(handle)
    jobs.wait(handle)
    jobs.hook.delete(handle)
    other = make_step(["sleep", "600"], name=handle.name)
    theirs = jobs.hook.submit(other.spec, other.payload)
    jobs.handles.append(theirs)
    wait_until(lambda: jobs.state(theirs), "it runs", holds=lambda state: state is JobState.RUNNING)
    for action in (Action.CANCEL, Action.DELETE, Action.KEEP):
        assert sweep([replace(orphan, action=action)]) == []
    assert jobs.state(theirs) is JobState.RUNNING
    assert not (jobs.hook.folder / theirs.id / "cancel").exists()


def test_keep_counts_only_in_a_signed_record(stepop, instance, jobs):
    one = instance("quiet", "success")
    handle = jobs.submit(one, "true", deployment=DEPLOYMENT)
    jobs.wait(handle)
    changed(one, one.new_record(nonce=_nonce(jobs, handle), keep="always"))
    assert found(stepop(*ALL)) == {}


def _nonce(jobs, handle):
    (job,) = [job for job in jobs.hook.find({"deployment": DEPLOYMENT}) if job.handle == handle]
    return job.labels["nonce"]


def test_a_job_that_cannot_be_swept_does_not_stop_the_sweep(stepop, instance, submit, jobs):
    """Each failure is printed, and the exit code is 1."""
    one = instance("quiet", "failed")
    handles = [submit(one, is_recorded=False), submit(one, is_recorded=False)]
    for handle in handles:
        jobs.hook.cancel(handle)
        jobs.wait(handle)
    stuck = jobs.hook.folder / handles[0].id
    nursery = jobs.hook.folder / ".new"
    shutil.rmtree(nursery)
    nursery.touch()  # deleted folders are moved there first
    try:
        output = stepop(*ALL, "--retention", "0.000000001", "--yes")
    finally:
        nursery.unlink()
        nursery.mkdir()
    assert output.code == 1
    assert output.err.count("could not delete local job") == 2
    assert stuck.exists()
    assert stepop(*ALL, "--retention", "0.000000001", "--yes").code == 0
    assert not stuck.exists()


class SealedHook(MemoryHook):
    """Lists its jobs as the service would, with labels."""

    backend = "memory"
    labels: ClassVar[dict[str, dict[str, str]]] = {}

    def find(self, labels):
        for name in self.jobs:
            if labels.items() <= self.labels[name].items():
                yield FoundJob(self.handle(name), self.labels[name], time.time() - 60)


@pytest.fixture
def sealed(tmp_path, monkeypatch, instance):
    """A backend whose jobs have secrets that outlive them, and a function that adds a job of a task."""
    hook = SealedHook()
    monkeypatch.setattr(SealedHook, "labels", {})
    monkeypatch.setattr(Registered, "hook", hook, raising=False)
    install_backend(monkeypatch, tmp_path / "site", "memory", f"{Registered.__module__}:Registered")
    monkeypatch.setenv("AIRFLOW__STEPOP__DEFAULT_BACKEND", "memory")

    def add(state, task_state="failed", **changes):
        record = instance("quiet", task_state).new_record(keep="always", **changes)
        hook.labels[record.name] = {**record.labels, "deployment": DEPLOYMENT}
        handle = hook.add(record.name, state)
        hook.secrets.add(record.name)
        instance("quiet", task_state).set_record(record.with_handle(handle).to_json())
        return record.name

    return hook, add


def test_secrets_of_a_job_that_a_user_ended_go(stepop, sealed):
    """No task has seen the end of the job. The sweep that sees it deletes the secrets, whatever is kept."""
    hook, add = sealed
    name = add(JobState.RUNNING)
    assert found(stepop(*ALL, "--yes")) == {name: ("cancel", "its task instance has finished (failed)")}
    assert hook.secrets == {name}, "the job may still read them"
    assert hook.jobs[name].state is JobState.CANCELLED
    assert stepop(*ALL).data == []
    assert hook.secrets == {name}, "without --yes nothing is done"
    assert stepop(*ALL, "--yes").data == []
    assert hook.secrets == set()
    assert name in hook.jobs


def test_secrets_of_a_live_task_stay(stepop, sealed):
    hook, add = sealed
    name = add(JobState.SUCCEEDED, "deferred")
    assert stepop(*ALL, "--yes").data == []
    assert hook.secrets == {name}


def test_a_collected_job_is_not_asked_again(stepop, sealed):
    """Its task has deleted the secrets. Each sweep would otherwise list the folder of each kept job."""
    hook, add = sealed
    add(JobState.FAILED, collected={"failure": FAILURE})
    assert stepop(*ALL, "--yes").data == []
    assert hook.calls["delete_secrets"] == 0


@pytest.mark.parametrize("days", ["-1", "nan", "inf"])
def test_a_wrong_retention_is_refused(stepop, days):
    output = stepop("sweep", "--retention", days)
    assert output.code == 1
    assert "is a number of days" in output.err


def test_the_table_sums_up(stepop, instance, submit):
    """The summary has the numbers, and says that nothing was done."""
    submit(instance("quiet", "failed"))
    out = stepop("sweep", "--min-age", "0").out
    assert "1 to cancel, 0 to delete. Nothing was done: add --yes" in out
    assert "1 cancelled, 0 deleted" in stepop("sweep", "--min-age", "0", "--yes").out


SLEEPS = """
from airflow.sdk import DAG
from airflow_stepop import RemoteStepOperator

with DAG("killed", schedule=None):
    RemoteStepOperator(task_id="sleeps", command=["sleep", "600"], retries=0)
"""


def test_the_job_of_a_worker_that_was_killed(home, tmp_path, stepop, jobs):
    """The job runs on while its task may be tried again. Once Airflow has given the task up, it is swept."""
    (tmp_path / "killed.py").write_text(SLEEPS)
    environment = {**os.environ, "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    code = (
        "from airflow.dag_processing.dagbag import BundleDagBag as B; "
        f"B(dag_folder={str(tmp_path)!r}, bundle_path={str(tmp_path)!r}, bundle_name='dags-folder')"
        ".dags['killed'].test()"
    )
    with (tmp_path / "log").open("w") as log:
        argv = [sys.executable, "-c", code]
        with started(argv, env=environment, stdout=log, stderr=log) as worker:
            rows, exit_code = wait_until(
                lambda: (stepop("jobs", "--dag-id", "killed", "-o", "json").data, worker.poll()),
                "the job of the worker",
                holds=lambda seen: seen[0] or seen[1] is not None,
                explain=lambda: (tmp_path / "log").read_text()[-3000:],
                pause_s=0.1,
            )
            assert exit_code is None, (tmp_path / "log").read_text()[-3000:]
    (handle,) = [job.handle for job in jobs.hook.find({"dag_id": "killed"})]
    jobs.handles.append(handle)
    assert stepop(*ALL, "--yes").data == []
    assert rows[0]["state"] in ("running", "pending")
    _give_up("killed")
    assert list(found(stepop(*ALL, "--yes"))) == [handle.name]
    assert jobs.wait(handle) is JobState.CANCELLED


def _give_up(dag_id):
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    with create_session() as session:
        session.execute(update(TaskInstance).where(TaskInstance.dag_id == dag_id).values(state="failed"))
