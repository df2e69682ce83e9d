"""The suite that every backend passes, ours and a third party's. Needs ``pip install pytest``.

A backend's whole test of the contract::

    from airflow_stepop.testing import HookContract

    class TestNomad(HookContract):
        @pytest.fixture
        def make_hook(self, nomad):                  # a new hook at each call
            return lambda: NomadStepHook(conn_id="nomad")

Where a service is unlike the others, a class attribute says so (``has_live_logs = False``); no test is
overridden. Every step really runs: the suite needs the service, or an emulator of it that runs the job's
command, with ``sh``. Assertions explain themselves when a ``conftest.py`` has
``pytest.register_assert_rewrite("airflow_stepop.testing")``.
"""

# ruff: noqa: S101 - this is a test suite: asserts are its purpose

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from airflow_stepop.exceptions import OutcomeLostError, StepConfigError, UnsupportedError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.hooks.settings import parse_settings
from airflow_stepop.job import Cursor, JobHandle, JobState, JobStatus
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import read_outcome, to_xcom
from airflow_stepop.payload.standalone import Step, make_step
from airflow_stepop.resources import ResourceSettings
from airflow_stepop.results import StepResult
from airflow_stepop.stores.base import Store
from airflow_stepop.stores.configured import open_store
from airflow_stepop.stores.folder import folder_uri

__all__ = ["HookContract", "Step", "make_step"]


class HookContract:
    """What every backend promises. A subclass has the fixture ``make_hook`` and, if need be, attributes."""

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

    def result(self, hook: StepHook, step: Step, handle: JobHandle) -> dict[str, Any]:
        """Return what the outcome says, checked as the operator checks it."""
        return read_outcome(hook.outcome(handle), step.spec.name, step.spec.nonce)

    def unknown(self, handle: JobHandle) -> JobHandle:
        """Return the handle of a job that never was."""
        return replace(handle, id=f"{handle.id[:-4]}zzzz", name=f"{handle.name[:-4]}zzzz")

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
        assert replace(hook.status([handle])[handle], native=last.native) == last

    # -- outcomes

    def test_success(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """The outcome of a function that returned carries its value, and its digest fits its bytes."""

        def answer() -> dict[str, int]:
            return {"answer": 42}

        one = step(answer)
        handle, status = self.run(hook, one)
        assert status.state is JobState.SUCCEEDED, (status, self.lines(hook, handle))
        assert status.failure is None
        report = hook.outcome(handle)
        assert report.digest in (None, hashlib.sha256(report.data).hexdigest())
        assert to_xcom(self.result(hook, one, handle)["result"]) == {"answer": 42}

    def test_large_result(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A value too large for the outcome is in the folder of the store that the step was given."""

        def zeros() -> bytes:
            return bytes(1_000_000)

        one = step(zeros)
        handle, status = self.run(hook, one)
        assert status.state is JobState.SUCCEEDED, self.lines(hook, handle)
        report = hook.outcome(handle)
        assert report.base_uri == one.spec.result_uri
        result = to_xcom(self.result(hook, one, handle)["result"])
        hook.delete(handle)
        assert isinstance(result, StepResult)
        assert result.load() == bytes(1_000_000)

    def test_large_argument(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A part that travels with the job arrives."""

        def length(data: bytes) -> int:
            return len(data)

        one = step(FunctionCall(function=length, args=[bytes(300_000)], kwargs={}, reference=None))
        if one.payload.inline_bytes > hook.inline_limit:
            pytest.skip(f"{hook.backend} carries at most {hook.inline_limit} bytes")
        handle, status = self.run(hook, one)
        assert status.state is JobState.SUCCEEDED, self.lines(hook, handle)
        assert to_xcom(self.result(hook, one, handle)["result"]) == 300_000

    def test_failing_command(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A step that fails has an outcome that says so, with its exit code."""
        one = step(["sh", "-c", "exit 3"])
        handle, status = self.run(hook, one)
        assert status.state is JobState.FAILED
        failure = self.result(hook, one, handle)["failure"]
        assert failure["category"] == Category.USER_ERROR.value
        assert failure["exit_code"] == 3

    def test_crash(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A job that died without an outcome is a failure, and its outcome is lost, not invented."""
        handle, status = self.run(hook, step(self.crash))
        assert status.state is JobState.FAILED
        with pytest.raises(OutcomeLostError):
            hook.outcome(handle)

    def test_changed_payload_is_not_run(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A manifest that is not the one of the request is refused before anything of it runs."""
        one = step(["echo", "must not run"])
        changed = replace(one, payload=replace(one.payload, manifest=one.payload.manifest + b" "))
        handle, status = self.run(hook, changed)
        assert status.state is JobState.FAILED
        assert "must not run" not in self.lines(hook, handle)

    def test_environment(
        self, hook: StepHook, step: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The step sees what it was given and who it is, and none of Airflow's own settings."""
        monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "secret")
        one = step(["env"], env={"GREETING": "hello world"})
        handle, _ = self.run(hook, one)
        lines = self.lines(hook, handle)
        assert {"GREETING=hello world", f"STEPOP_JOB={one.spec.name}", f"STEPOP_NONCE={one.spec.nonce}"} <= {
            *lines
        }
        assert not [line for line in lines if line.startswith("AIRFLOW__")]

    # -- checkpoints

    def test_checkpoint(self, hook: StepHook, step: Callable[..., Step], checkpoint_uri: str) -> None:
        """A job finds what an earlier job of the same task has left, however that one ended."""
        leave = ["sh", "-c", 'ls "$STEPOP_CHECKPOINT_DIR"; echo 7 > "$STEPOP_CHECKPOINT_DIR/epoch"; exit 3']
        handle, status = self.run(hook, step(leave, checkpoint_uri=checkpoint_uri))
        assert status.state is JobState.FAILED
        assert "epoch" not in self.lines(hook, handle)
        hook.delete(handle)
        find = ["sh", "-c", 'cat "$STEPOP_CHECKPOINT_DIR/epoch"']
        handle, status = self.run(hook, step(find, checkpoint_uri=checkpoint_uri))
        assert status.state is JobState.SUCCEEDED, self.lines(hook, handle)
        assert self.lines(hook, handle)[-1] == "7"

    # -- secrets

    def test_secrets(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A secret is in the step's environment, and not in the request, the log or the outcome."""
        value = f"s3cr3t/{secrets.token_hex(8)}"
        one = step(["sh", "-c", 'echo "token: $TOKEN"; test -n "$TOKEN"'], secrets={"TOKEN": value})
        assert value not in json.dumps(hook.render(one.spec)) + repr(one.payload)
        handle, status = self.run(hook, one)
        assert status.state is JobState.SUCCEEDED, self.lines(hook, handle)
        assert self.lines(hook, handle) == ["token: ***"]
        assert value.encode() not in hook.outcome(handle).data

    def test_secrets_of_a_step_that_fails(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """What a step raises does not tell a secret either."""
        value = secrets.token_hex(16)

        def fail() -> None:
            import os

            raise ValueError(f"cannot log in with {os.environ['TOKEN']}", {"token": os.environ["TOKEN"]})

        one = step(fail, secrets={"TOKEN": value})
        handle, status = self.run(hook, one)
        assert status.state is JobState.FAILED
        failure = self.result(hook, one, handle)["failure"]
        assert failure["exception"]["args"] == ["cannot log in with ***", {"token": "***"}]
        assert value not in json.dumps(failure) + "\n".join(self.lines(hook, handle))

    # -- logs

    def test_logs(self, make_hook: Callable[[], StepHook], step: Callable[..., Step], tmp_path: Path) -> None:
        """Lines come once, in order, to whoever has the cursor, while the step runs and to the last one."""
        hook, go = make_hook(), tmp_path / "go"
        is_told = self.shares_files and self.has_live_logs  # the step goes on when its first line was read
        pause = f"until [ -e '{go}' ]; do sleep 0.05; done" if is_told else "sleep 10"
        one = step(
            ["sh", "-c", f"echo line 1; {pause}; for i in 2 3 4; do echo line $i; done; printf 'no end'"]
        )
        handle = hook.submit(one.spec, one.payload)
        cursor: Cursor = None
        lines: list[str] = []
        early = 0
        is_over = False
        while not is_over:
            is_over = self.wait(hook, handle, lambda _: True).state.is_terminal
            while (chunk := make_hook().logs({handle: cursor}).get(handle)) is not None and chunk.lines:
                lines += [line.text for line in chunk.lines]
                cursor = json.loads(json.dumps(chunk.cursor))
            early = early or (0 if is_over else len(lines))
            if lines:
                go.touch()
            time.sleep(self.poll_s)
        assert lines == ["line 1", "line 2", "line 3", "line 4", "no end"]
        assert early > 0 or not self.has_live_logs
        assert self.lines(hook, handle, cursor) == []
        assert self.lines(hook, handle) == lines

    def test_logs_of_both_streams(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """Standard output and standard error are both there, with bytes that are no UTF-8 replaced."""
        handle, _ = self.run(hook, step(["sh", "-c", r"echo out; echo err >&2; printf 'caf\351\n'"]))
        assert sorted(self.lines(hook, handle)) == sorted(["out", "err", "caf\N{REPLACEMENT CHARACTER}"])

    def test_last_lines(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """The end of a log can be read without what is before it, or before a cursor."""
        handle, _ = self.run(hook, step(["sh", "-c", "for i in $(seq 60); do echo line $i; done"]))
        chunk = hook.tail(handle, 3)
        assert [line.text for line in chunk.lines] == ["line 58", "line 59", "line 60"]
        assert self.lines(hook, handle, json.loads(json.dumps(chunk.cursor))) == []
        assert len(hook.tail(handle, 100).lines) == 60
        after = hook.tail(handle, 3, chunk.cursor)
        assert list(after.lines) == []
        assert self.lines(hook, handle, after.cursor) == []
        assert list(hook.tail(self.unknown(handle), 3).lines) == []

    def test_no_logs(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """A step that prints nothing, and a job that never was, have no lines."""
        handle, _ = self.run(hook, step(["true"]))
        assert self.lines(hook, handle) == []
        assert self.lines(hook, self.unknown(handle)) == []

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
        """A deleted job is gone with its outcome, and is not found; deleting it again is no error."""
        one = step(["true"])
        handle, _ = self.run(hook, one)
        hook.delete(handle)
        hook.delete(handle)
        assert hook.status([handle])[handle].state is JobState.GONE
        assert self.found(hook, nonce=one.spec.nonce) == set()
        with pytest.raises(OutcomeLostError):
            hook.outcome(handle)

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
