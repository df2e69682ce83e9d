"""The contract of a service that fails: errors of its API, quotas, machines that are lost, watches."""

# ruff: noqa: S101 - this is a test suite: asserts are its purpose

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from airflow_stepop.exceptions import (
    IntegrityError,
    OutcomeLostError,
    PayloadError,
    QuotaError,
    StepConfigError,
    StoreError,
)
from airflow_stepop.hooks.base import ApiError, StepHook
from airflow_stepop.job import JobHandle, JobState
from airflow_stepop.payload.standalone import Step
from airflow_stepop.testing.base import MANY, ContractBase

OWN_ERRORS = (StepConfigError, PayloadError, QuotaError, IntegrityError, OutcomeLostError, StoreError)
LOOKS = 20  # at a job that has ended


class ServiceContract(ContractBase):
    """What holds when a service is full, away, or has lost a machine."""

    def test_transient_errors(self, hook: StepHook) -> None:
        """An error that passes is told from one that does not; a mistake of ours is never transient."""
        for error in self.transient_errors:
            assert hook.is_transient(error), error
        for kind in (*OWN_ERRORS, ValueError, KeyError):
            assert not hook.is_transient(kind("a mistake")), kind
        found = hook.api_error(ValueError("its text"))
        assert isinstance(found, ApiError)
        assert found.message == "its text"

    def test_the_state_table_is_total(self, hook: StepHook, caplog: pytest.LogCaptureFixture) -> None:
        """Every native state is mapped; an unknown one is logged and counts as running."""
        table = hook.state_table
        if table is None:
            pytest.skip(f"{hook.backend} has no table: its states follow from more than one word")
        assert set(self.native_states) <= set(table.states)
        assert {JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED} <= set(table.states.values())
        assert JobState.GONE not in table.states.values()
        unknown = f"unknown-{secrets.token_hex(4)}"  # each is logged once
        with caplog.at_level(logging.WARNING):
            assert table.of(unknown) is JobState.RUNNING
        assert unknown in caplog.text

    def test_a_full_quota(
        self, hook: StepHook, step: Callable[..., Step], full_quota: AbstractContextManager[None] | None
    ) -> None:
        """A submit without room in a quota is a QuotaError; later the same submit makes one job."""
        if full_quota is None:
            pytest.skip(f"{hook.backend} has no quota that the contract can fill")
        one = step(["true"])
        with full_quota:
            with pytest.raises(QuotaError):
                hook.submit(one.spec, one.payload)
            assert not hook.is_transient(QuotaError("full"))
        handle = self.submit_when_there_is_room(hook, one)
        assert self.wait(hook, handle).state is JobState.SUCCEEDED
        assert self.found(hook, nonce=one.spec.nonce) == {handle}

    def submit_when_there_is_room(self, hook: StepHook, step: Step) -> JobHandle:
        deadline = time.monotonic() + self.patience_s
        while True:
            try:
                return hook.submit(step.spec, step.payload)
            except QuotaError:  # services hear late that a quota was raised
                assert time.monotonic() < deadline, "the quota stays full"
                time.sleep(self.poll_s)

    def test_a_fresh_status(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """It is never behind what the service knows, and agrees with ``status``."""
        handle, last = self.run(hook, step(["true"]))
        assert hook.fresh_status(handle).state is last.state is JobState.SUCCEEDED
        assert hook.fresh_status(self.unknown(handle)).state is JobState.GONE
        hook.delete(handle)
        assert hook.fresh_status(handle).state is JobState.GONE

    def test_an_outcome_is_preserved(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A preserved outcome outlives the machine and the secrets of the job; twice is no error."""

        def answer() -> str:
            return "42"

        one = step(answer)
        handle, _ = self.run(hook, one)
        before = hook.outcome(handle)
        hook.preserve_outcome(handle)
        hook.preserve_outcome(handle)
        self.lose_machine(hook, handle)
        for each in (handle, handle, self.unknown(handle)):
            hook.delete_secrets(each)
        assert hook.outcome(handle) == before
        hook.preserve_outcome(self.unknown(handle))

    def test_an_end_stays(self, make_hook: Callable[[], StepHook], step: Callable[..., Step]) -> None:
        """A terminal state stays for every process, also when the machine is lost, until a deletion."""
        for command, state in ((["true"], JobState.SUCCEEDED), (["false"], JobState.FAILED)):
            hook = make_hook()
            handle, last = self.run(hook, step(command))
            assert last.state is state
            hook.preserve_outcome(handle)
            self.lose_machine(hook, handle)
            for _ in range(LOOKS):
                for one in (hook, make_hook()):
                    now = one.status([handle])[handle]
                    assert (now.state, now.failure) == (state, last.failure), now
                time.sleep(self.poll_s)
            hook.cancel(handle)
            assert hook.fresh_status(handle).state is state
            hook.delete(handle)
            assert hook.status([handle])[handle].state is JobState.GONE

    def test_changed_jobs(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A service that tells of changes by itself tells of every end; the others say so with ``None``."""
        assert hook.changed_jobs() is None, "nobody has asked for a job yet"
        one = step(["sleep", "1"])
        handle = hook.submit(one.spec, one.payload)
        others = [self.unknown(handle, f"zzz{number}") for number in range(MANY)]
        hook.status([handle, *others])
        changed = hook.changed_jobs()
        if changed is None:
            return
        seen = set(changed)
        deadline = time.monotonic() + self.patience_s
        while not (handle in seen and hook.status([handle, *others])[handle].state.is_terminal):
            assert time.monotonic() < deadline, f"nobody tells that {handle} has changed"
            time.sleep(self.poll_s)
            seen |= set(hook.changed_jobs() or ())
