"""The contract of a step: its outcome, its environment, its secrets, its log."""

# ruff: noqa: S101 - this is a test suite: asserts are its purpose

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_stepop.exceptions import OutcomeLostError
from airflow_stepop.failure import Category
from airflow_stepop.hooks.base import StepHook
from airflow_stepop.job import Cursor, JobState
from airflow_stepop.payload.call import FunctionCall
from airflow_stepop.payload.outcome import to_xcom
from airflow_stepop.payload.standalone import Step
from airflow_stepop.results import StepResult
from airflow_stepop.testing.base import ContractBase


class StepContract(ContractBase):
    """What holds for the step that a job runs."""

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
        """A value too large for the outcome is in the folder of the store that the step has, or below."""

        def zeros() -> bytes:
            return bytes(1_000_000)

        one = step(zeros)
        handle, status = self.run(hook, one)
        assert status.state is JobState.SUCCEEDED, self.lines(hook, handle)
        report = hook.outcome(handle)
        assert f"{report.base_uri}/".startswith(f"{one.spec.result_uri}/")
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
        assert failure["exception"]["args"] == [
            ["json", '"cannot log in with ***"'],
            ["json", '{"token":"***"}'],
        ]
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

    def test_levels(self, hook: StepHook, step: Callable[..., Step]) -> None:
        """Each line of a record of Python's logging has the record's level, in the log and in its tail."""

        def log() -> None:
            import logging

            print("printed", flush=True)
            print("half a line: ", end="", flush=True)
            logging.getLogger("a.b").warning("two\nlines")
            logging.error("last")

        handle, _ = self.run(hook, step(log))
        expected = [
            ("info", "printed"),
            ("info", "half a line: "),
            ("warning", "WARNING:a.b: two"),
            ("warning", "WARNING:a.b: lines"),
            ("error", "ERROR:root: last"),
        ]
        chunk = hook.logs({handle: None})[handle]
        assert [(line.level, line.text) for line in chunk.lines] == expected
        assert [(line.level, line.text) for line in hook.tail(handle, 4).lines] == expected[1:]

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
