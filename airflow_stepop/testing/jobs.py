"""The contract of a job: requests, exactly one job, its states, and its end."""

# ruff: noqa: S101 - this is a test suite: asserts are its purpose

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_stepop.exceptions import OutcomeLostError, StepConfigError, UnsupportedError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.job import JobHandle, JobState, JobStatus
from airflow_stepop.payload.standalone import Step
from airflow_stepop.testing.base import MANY, ContractBase


class JobContract(ContractBase):
    """What holds for a job, whatever its step does."""

    # -- before the job

    def test_render_is_pure_json(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """The same step renders to the same JSON, and rendering starts nothing."""
        spec = step(["true"], env={"A": "b"}).spec
        request = hook.render(spec)
        assert json.loads(json.dumps(request)) == request == hook.render(spec)
        assert hook.lookup(spec) is None

    def test_digest_and_time_limit_are_in_the_request(
        self, hook: StepHook, step: Callable[..., Step]
    ) -> None:
        """What protects and ends the step travels in the request itself, where no store can change it."""
        spec = step(["true"], timeout_s=4321.0).spec
        request = json.dumps(hook.render(spec))
        assert spec.digest in request
        assert "4321" in request

    def test_unsupported_resource_is_refused(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A resource that the backend cannot give is an error that names it, and nothing is started."""
        for name, resources in self.unsupported.items():
            refused = step(["true"], resources=resources)
            with pytest.raises(UnsupportedError, match=name):
                hook.render(refused.spec)
            with pytest.raises(UnsupportedError, match=name):
                hook.submit(refused.spec, refused.payload)
            assert hook.lookup(refused.spec) is None

    def test_unknown_setting_is_refused(self, hook: StepHook) -> None:
        """A misspelt setting is an error that lists the valid ones."""
        with pytest.raises(StepConfigError, match="no_such_setting") as caught:
            parse_settings(type(hook).settings_model, {"no_such_setting": 1}, hook.backend)
        assert all(name in str(caught.value) for name in type(hook).settings_model.model_fields)

    def test_identity(self, hook: StepHook) -> None:
        """A backend has a one-word name, a scope, an inline limit, and findings that say what to do."""
        assert hook.backend.isidentifier()
        assert hook.backend == hook.backend.lower()
        assert isinstance(hook.scope(), str)
        assert hook.inline_limit >= 0
        assert all(finding.is_ok or finding.fix for finding in hook.check())

    # -- exactly one job

    def starts(self, tmp_path: Path) -> Sequence[str]:
        """Return a command that leaves a mark each time it is started."""
        mark = f'echo started >> "{tmp_path}/starts"' if self.shares_files else ":"
        return ("sh", "-c", f"echo started; {mark}; sleep 0.2")

    def check_started_once(self, hook: StepHook, step: Step, tmp_path: Path, handles: set[JobHandle]) -> None:
        (handle,) = handles
        assert self.wait(hook, handle).state is JobState.SUCCEEDED
        assert self.lines(hook, handle) == ["started"]
        assert self.found(hook, nonce=step.spec.nonce) == {handle}
        if self.shares_files:
            assert (tmp_path / "starts").read_text() == "started\n"

    def test_submit_twice_is_one_job(
        self, make_hook: Callable[[], StepHook], step: Callable[..., Step], tmp_path: Path
    ) -> None:
        """Submitting again, while it runs and when it is over, finds the job and starts nothing."""
        one = step(self.starts(tmp_path))
        handles = {make_hook().submit(one.spec, one.payload) for _ in range(2)}
        hook = make_hook()
        self.wait(hook, next(iter(handles)))
        handles.add(hook.submit(one.spec, one.payload))
        self.check_started_once(hook, one, tmp_path, handles)

    def test_concurrent_submits_are_one_job(
        self, make_hook: Callable[[], StepHook], step: Callable[..., Step], tmp_path: Path
    ) -> None:
        """Any number of submits at the same time make one job."""
        one = step(self.starts(tmp_path))
        with ThreadPoolExecutor(4) as pool:
            submits = [pool.submit(make_hook().submit, one.spec, one.payload) for _ in range(4)]
        self.check_started_once(make_hook(), one, tmp_path, {submit.result() for submit in submits})

    def test_lookup(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A job can be found by its name alone, from its submission until it is deleted."""
        one = step(["true"])
        assert hook.lookup(one.spec) is None
        handle, _ = self.run(hook, one)
        assert hook.lookup(one.spec) == handle
        hook.delete(handle)
        assert hook.lookup(one.spec) is None

    def test_handle_is_enough(self, make_hook: Callable[[], StepHook], step: Callable[..., Step]) -> None:
        """A handle that went through JSON leads another hook to everything."""
        one = step(["echo", "hello"])
        sent = make_hook().submit(one.spec, one.payload)
        handle, hook = JobHandle.from_json(json.loads(json.dumps(sent.to_json()))), make_hook()
        assert handle == sent
        assert handle.backend == hook.backend
        assert handle.scope == hook.scope()
        assert self.wait(hook, handle).state is JobState.SUCCEEDED
        assert self.lines(hook, handle) == ["hello"]
        assert "failure" not in self.result(hook, one, handle)
        assert isinstance(hook.link(handle), (str, type(None)))

    def test_jobs_of_another_place(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A job outside of the connection's own place is found by what its record knows, and can be ended."""
        if not self.other_place:
            pytest.skip(f"{hook.backend} has one place, or the contract knows of no other")
        settings = {**self.spec_options.get("settings", {}), **self.other_place}
        one, model = step(["sleep", "600"], settings=settings), type(hook).settings_model
        handle = hook.submit(one.spec, one.payload)
        nonce = {"nonce": one.spec.nonce}
        assert self.found(hook, **nonce) == set()
        for location in (self.other_place, hook.location_of(handle)):
            assert set(location) <= set(model.location_fields)
            there = parse_settings(model, dict(location), hook.backend)
            assert [job.handle for job in hook.find_for(there, nonce)] == [handle]
        hook.cancel(handle)
        assert self.wait(hook, handle).state is JobState.CANCELLED
        own = step(["true"])
        near, _ = self.run(hook, own)
        here = parse_settings(model, dict(hook.location_of(near)), hook.backend)
        assert list(hook.find_for(here, {"nonce": own.spec.nonce})) == [], "find() looks there"

    # -- states

    def test_status_of_many(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """One call returns the status of every handle it was asked for, and of no other."""
        handles = [hook.submit(one.spec, one.payload) for one in (step(["true"]), step(["false"]))]
        for handle in handles:
            self.wait(hook, handle)
        unknown = self.unknown(handles[0])
        states = {handle: status.state for handle, status in hook.status([*handles, unknown]).items()}
        assert states == {
            handles[0]: JobState.SUCCEEDED,
            handles[1]: JobState.FAILED,
            unknown: JobState.GONE,
        }
        assert hook.status([]) == {}

    def test_states_go_forward(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A job goes from PENDING over RUNNING to its end, never back, and stays there."""
        order = [JobState.PENDING, JobState.RUNNING, JobState.SUCCEEDED]
        one = step(["sleep", "0.3"])
        handle = hook.submit(one.spec, one.payload)
        seen: list[JobState] = []

        def note(status: JobStatus) -> bool:
            seen.append(status.state)
            return False

        last = self.wait(hook, handle, note)
        assert [*seen, last.state] == sorted([*seen, last.state], key=order.index)
        assert last.started_at is None or last.finished_at is None or last.started_at <= last.finished_at
        again = hook.status([handle])[handle]
        assert replace(again, native=last.native, message=last.message) == last

    # -- the end

    def test_cancel(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A cancelled job ends soon and for good, however often it is cancelled."""
        one = step(["sh", "-c", "echo running; sleep 600"])
        handle = hook.submit(one.spec, one.payload)
        self.wait_for_line(hook, handle, "running")
        hook.cancel(handle)
        hook.cancel(handle)
        assert self.wait(hook, handle).state is JobState.CANCELLED
        hook.cancel(handle)
        assert hook.status([handle])[handle].state is JobState.CANCELLED
        assert hook.submit(one.spec, one.payload) == handle
        assert hook.status([handle])[handle].state is JobState.CANCELLED

    def test_cancel_too_late(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """Cancelling a finished job changes nothing, and cancelling one that never was is no error."""
        one = step(["true"])
        handle, _ = self.run(hook, one)
        hook.cancel(handle)
        assert hook.status([handle])[handle].state is JobState.SUCCEEDED
        assert "failure" not in self.result(hook, one, handle)
        hook.cancel(self.unknown(handle))

    def test_delete(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A deleted job is gone with its outcome and its input, and is not found; deleting it again is no
        error.
        """
        one = step(["true"])
        handle, _ = self.run(hook, one)
        hook.delete(handle)
        hook.delete(handle)
        assert hook.status([handle])[handle].state is JobState.GONE
        assert self.found(hook, nonce=one.spec.nonce) == set()
        assert [left.path for left in hook.leftovers() if left.path.endswith(f"/{handle.name}")] == []
        with pytest.raises(OutcomeLostError):
            hook.outcome(handle)

    def test_a_job_of_the_same_name_made_by_somebody_else(
        self, make_hook: Callable[[], StepHook], hook: StepHook, step: Callable[..., Step]
    ) -> None:
        """Our job is gone. The other one is not believed, and neither cancelled nor deleted."""
        mine = step(["true"])
        sent, _ = self.run(hook, mine)
        handle = replace(sent, nonce=mine.spec.nonce)  # as the lifecycle has it
        old = replace(sent, nonce="", instance="")  # as an earlier version has stored it
        assert "failure" not in self.result(hook, mine, handle)
        assert hook.outcome(old) == hook.outcome(handle)
        self.free_name(hook, handle)
        somebody, other = make_hook(), step(["sh", "-c", "echo other; sleep 600"], name=handle.name)
        theirs = somebody.submit(other.spec, other.payload)
        self.wait_for_line(somebody, theirs, "other")
        ours = [handle, replace(old, nonce=mine.spec.nonce)]  # an old handle gets the nonce of its record
        if sent.instance:
            ours.append(replace(sent, nonce=other.spec.nonce))  # somebody has copied our nonce
        for one in ours:
            state = hook.status([one])[one].state
            assert state in (JobState.GONE, JobState.SUCCEEDED), "this hook has seen the end of our job"
            self.check_not_believed(make_hook(), one)
        assert hook.lookup(mine.spec) is None
        with pytest.raises(StepConfigError, match="another nonce"):
            hook.submit(mine.spec, mine.payload)
        assert somebody.fresh_status(theirs).state is JobState.RUNNING
        somebody.cancel(theirs)
        assert self.wait(somebody, theirs).state is JobState.CANCELLED
        somebody.delete(theirs)

    def check_not_believed(self, hook: StepHook, handle: JobHandle) -> None:
        """Check that a job is gone for a handle, and do all that could harm the job that has its name."""
        many = [handle, *(self.unknown(handle, f"zzz{number}") for number in range(MANY))]
        hook.cancel(handle)
        assert hook.status(many)[handle].state is JobState.GONE
        assert hook.fresh_status(handle).state is JobState.GONE
        with pytest.raises(OutcomeLostError):
            hook.outcome(handle)
        hook.preserve_outcome(handle)
        hook.delete_secrets(handle)
        hook.delete(handle)

    def test_find(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """Jobs are found by their labels, finished and running ones, and no others; the labels come back as
        they were given.
        """
        dag, began = f"dag-{secrets.token_hex(4)}", time.time()
        odd = {"run_id": "manual__2026-01-01T00:00:00+00:00", "deployment": "ü/é " + "x" * 200}
        finished = step(["true"], labels={"dag_id": dag, "task_id": "a", **odd})
        running = step(["sleep", "600"], labels={"dag_id": dag, "task_id": "b"})
        first, _ = self.run(hook, finished)
        second = hook.submit(running.spec, running.payload)
        assert self.found(hook, dag_id=dag) == {first, second}
        assert self.found(hook, dag_id=dag, task_id="b") == {second}
        assert self.found(hook, dag_id=f"{dag}-x") == set()
        (found,) = hook.find({"dag_id": dag, **odd})
        assert dict(found.labels) == dict(finished.spec.labels)
        assert began - 60 < found.created_at < time.time() + 60

    def test_timeout(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """The job itself ends when it runs too long, and its status or its outcome says so."""
        late = step(["sleep", "600"], timeout_s=1.0)
        handle, status = self.run(hook, late)
        assert status.state is JobState.FAILED
        if status.failure is not None:
            category: str = status.failure.category
        else:
            category = self.result(hook, late, handle)["failure"]["category"]
        assert category == Category.TIMEOUT
