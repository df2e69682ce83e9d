"""What the tests of the contract use: fixtures, attributes of a subclass, and helpers."""

# ruff: noqa: S101 - this is a test suite: asserts are its purpose

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_stepop.hooks.base import StepHook
from airflow_stepop.job import Cursor, JobHandle, JobState, JobStatus
from airflow_stepop.payload.outcome import read_outcome
from airflow_stepop.payload.standalone import Step, make_step
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.folder import folder_uri

MANY = 10  # jobs that are asked for together: some services watch only many


class ContractBase:
    """What the tests of the contract use, and what a subclass may say about its backend."""

    spec_options: ClassVar[Mapping[str, Any]] = {}
    """Fields of every :class:`StepSpec`: an image, say."""
    unsupported: ClassVar[Mapping[str, ResourceSettings]] = {"nodes": ResourceSettings(nodes=1000)}
    """Resources that the backend refuses, by the field that the error must name."""
    crash: ClassVar[Sequence[str]] = ("sh", "-c", "read -r _ _ _ id _ < /proc/$PPID/stat; kill -9 $id")
    """A command that ends the runner with itself, so that no outcome is left."""
    has_live_logs: ClassVar[bool] = True
    """Lines can be read while the step runs; ``False``: only when it has ended."""
    shares_files: ClassVar[bool] = True
    """Steps see this host's files; ``False`` for a service that runs them elsewhere."""
    patience_s: ClassVar[float] = 60.0
    """How long a job may take from its submission to its end before a test fails."""
    poll_s: ClassVar[float] = 0.02
    other_place: ClassVar[Mapping[str, Any]] = {}
    """Settings of ``location_fields`` that lead to another place than the connection's own, if there are any.
    """
    native_states: ClassVar[Collection[str]] = ()
    """Every state of the SDK's own enum: the hook's ``state_table`` must have them all."""
    transient_errors: ClassVar[Sequence[Exception]] = ()
    """What the SDK raises when the service is away, restarts or is busy."""

    # -- what the tests use

    @pytest.fixture
    def make_hook(self) -> Callable[[], StepHook]:
        raise NotImplementedError("define the fixture make_hook: it returns a function that makes a hook")

    @pytest.fixture
    def hook(self, make_hook: Callable[[], StepHook]) -> StepHook:
        return make_hook()

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        """Return the configured store, which the service reaches: a folder of this host."""
        monkeypatch.setenv("AIRFLOW__STEPOP__STORE", f"{tmp_path}/store")
        return open_store(folder_uri(tmp_path / "store"))

    @pytest.fixture
    def checkpoint_uri(self, store: Store) -> str:
        """Return where a checkpoint is kept."""
        return store.uri("checkpoint")

    @pytest.fixture
    def step(self, hook: StepHook, store: Store) -> Iterator[Callable[..., Step]]:
        """Make steps, and remove their jobs when the test is over."""
        made: list[Step] = []

        def make(call: Any, **options: Any) -> Step:
            given = {"result_uri": store.uri("results"), **self.spec_options, **options}
            made.append(make_step(call, **given))
            return made[-1]

        yield make
        for step in made:
            handle = hook.lookup(step.spec)
            if handle is not None:
                hook.cancel(handle)
                self.wait(hook, handle)
                hook.delete(handle)

    @pytest.fixture
    def full_quota(self, hook: StepHook) -> AbstractContextManager[None] | None:
        """Return what makes the service refuse further jobs for a quota; ``None``: it has no quotas."""
        return None

    def lose_machine(self, hook: StepHook, handle: JobHandle) -> None:
        """Remove the machine of a terminal job with all that is on it; by default nothing is lost with it."""

    def free_name(self, hook: StepHook, handle: JobHandle) -> None:
        """Make the name of a terminal job free, as anybody may who can delete jobs at the service.

        By default ``delete`` does. Where ``delete`` keeps a record of the job, override this method.
        """
        hook.delete(handle)

    def wait(
        self, hook: StepHook, handle: JobHandle, until: Callable[[JobStatus], bool] | None = None
    ) -> JobStatus:
        """Return the first status that is terminal, or for which ``until`` holds."""
        deadline = time.monotonic() + self.patience_s
        while True:
            status = hook.status([handle])[handle]
            if status.state.is_terminal or (until is not None and until(status)):
                return status
            assert time.monotonic() < deadline, f"{handle} is still {status} after {self.patience_s} s"
            time.sleep(self.poll_s)

    def run(self, hook: StepHook, step: Step) -> tuple[JobHandle, JobStatus]:
        handle = hook.submit(step.spec, step.payload)
        return handle, self.wait(hook, handle)

    def lines(self, hook: StepHook, handle: JobHandle, cursor: Cursor = None) -> list[str]:
        """Return what is there to read after ``cursor``."""
        return [line.text for chunk in hook.chunks(handle, cursor) for line in chunk.lines]

    def wait_for_line(self, hook: StepHook, handle: JobHandle, text: str) -> None:
        """Return when the step has printed ``text``, so when it runs for certain."""
        if not self.has_live_logs:
            self.wait(hook, handle, lambda status: status.state is JobState.RUNNING)
            return
        deadline = time.monotonic() + self.patience_s
        while text not in self.lines(hook, handle):
            assert time.monotonic() < deadline, f"{handle} did not print {text!r}"
            time.sleep(self.poll_s)

    def found(self, hook: StepHook, **labels: str) -> set[JobHandle]:
        """Return the jobs with these labels, of which none may be there twice."""
        found = [job.handle for job in hook.find(labels)]
        assert len(found) == len(set(found))
        return set(found)

    def result(self, hook: StepHook, step: Step, handle: JobHandle) -> Mapping[str, Any]:
        """Return what the outcome says, checked as the operator checks it."""
        return read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)

    def unknown(self, handle: JobHandle, end: str = "zzzz") -> JobHandle:
        """Return the handle of a job that never was."""
        return replace(handle, id=f"{handle.id[:-4]}{end}", name=f"{handle.name[:-4]}{end}")
