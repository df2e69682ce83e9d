"""A backend in one file: steps run on this host under flock(1) and timeout(1), each in a folder of its own.

An example of how little code a backend needs. For real work, use ``local``.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from airflow_stepop.exceptions import UnsupportedError
from airflow_stepop.failure import Category, Failure
from airflow_stepop.hooks.base import (
    THIS_HOST,
    BackendSettings,
    OffsetCursor,
    StepHook,
    input_files,
    is_same_job,
    matches,
    parse_receipt,
    refuse_name,
    report,
    runner_argv,
    step_env,
    visible,
)
from airflow_stepop.job import Finding, FoundJob, JobHandle, JobState, JobStatus, LogChunk
from airflow_stepop.runner import protocol

START = 'setsid flock lock sh -c "$0" sh "$@" > /dev/null 2>&1 &'
# The process that gets the lock first runs the step; any later one finds `started` and exits.
SCRIPT = """
test -e started -o -e cancelled && exit
touch started
timeout -k 5 "$@" > log 2>&1 < /dev/null &
echo $! > pid.new; mv pid.new pid
test -e cancelled && kill $!
wait $!
echo $? > exit.new; mv exit.new exit
"""
TIMED_OUT = 124  # exit code of timeout(1)


class FlockSettings(BackendSettings):
    """Options of this backend.

    :param nice: how much the step steps back for other processes
    """

    nice: int = 0


class FlockStepHook(StepHook[FlockSettings]):
    """Runs a step in a folder of its own below ``root``."""

    backend = "flock"
    settings_model = FlockSettings
    inline_limit = 2**30
    is_host_bound = True
    root = Path(os.environ.get("FLOCK_ROOT", "/var/tmp/stepop-flock"))

    def render(self, spec):
        asked = {name: value for name, value in spec.resources.serialize().items() if value is not None}
        if asked:
            raise UnsupportedError(f"flock takes no resources ({', '.join(asked)}); use the backend local")
        nice, python = self.settings_of(spec).nice, sys.executable
        options = {"receipt": "receipt", "receipt_limit": 65536}
        step = runner_argv(python, spec, inputs=".", outputs="out", mounts=THIS_HOST, **options)
        argv = [str(spec.timeout_s), "nice", "-n", str(nice), *step]
        return {
            "argv": argv,
            "env": step_env(spec),
            "labels": dict(spec.labels),
            "result_uri": spec.result_uri,
        }

    def submit(self, spec, payload):
        job, request = self.root / spec.name, self.render(spec)
        draft = self.root / f".{spec.name}-{os.urandom(4).hex()}"
        (draft / "out").mkdir(parents=True)
        (draft / "request.json").write_text(json.dumps(request))
        for name, file in input_files(payload, spec).items():
            (draft / name).touch(0o600 if file.is_secret else 0o644)
            (draft / name).write_bytes(file.data)
        try:
            draft.rename(job)  # atomic: the folder appears with all its files
        except OSError:
            shutil.rmtree(draft)  # an earlier submit has created the job
            if self.lookup(spec) is None:
                refuse_name("flock job", spec.name)
        own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
        command = ["sh", "-c", START, SCRIPT, *request["argv"]]
        subprocess.run(command, cwd=job, env={**own, **request["env"]}, check=True)
        return self._handle(spec.name)

    def lookup(self, spec):
        handle = self._handle(spec.name, nonce=spec.nonce)
        return handle if self._job(handle).exists() else None

    def _handle(self, name, **fields):
        scope = self.scope()
        return JobHandle(self.backend, conn_id=self.conn_id, scope=scope, id=name, name=name, **fields)

    def _job(self, handle):
        """Return the folder of a job; one that does not exist if another job has the name now."""
        request = self.root / handle.id / "request.json"
        nonce = json.loads(request.read_text())["env"][protocol.ENV_NONCE] if request.exists() else None
        return request.parent if is_same_job(handle, nonce=nonce) else self.root / ".none"

    def status(self, handles):
        return {handle: self._status(self._job(handle)) for handle in handles}

    def _status(self, job):
        if not job.exists():
            return JobStatus(JobState.GONE)
        if (job / "exit").exists():
            return self._ended(job, int((job / "exit").read_text()))
        if (job / "cancelled").exists() and not (job / "pid").exists():
            return JobStatus(JobState.CANCELLED)
        return JobStatus(JobState.RUNNING if (job / "started").exists() else JobState.PENDING)

    def _ended(self, job, exit_code):
        if exit_code == 0:
            return JobStatus(JobState.SUCCEEDED)
        if (job / "cancelled").exists():
            return JobStatus(JobState.CANCELLED)
        if exit_code == TIMED_OUT:
            return JobStatus(JobState.FAILED, Failure(Category.TIMEOUT, "the step ran out of time"))
        return JobStatus(JobState.FAILED, native=f"exit code {exit_code}")

    def logs(self, cursors):
        chunks = {}
        for handle, cursor in cursors.items():
            log, begin = self._job(handle) / "log", OffsetCursor.parse(cursor)
            is_over = (log.parent / "exit").exists()
            data = log.read_bytes()[begin.offset :] if log.exists() else b""
            texts, end = begin.after(data, is_over=is_over)
            if texts:
                chunks[handle] = LogChunk(visible((time.time(), text) for text in texts), str(end))
        return chunks

    def outcome(self, handle):
        job = self._job(handle)
        receipt = job / "receipt"
        found = parse_receipt(receipt.read_text()) if receipt.exists() else None
        uri = json.loads((job / "request.json").read_text())["result_uri"] if found else ""
        return report(handle, found, uri, lambda _: (job / "out" / protocol.OUTCOME).read_bytes())

    def cancel(self, handle):
        job = self._job(handle)
        if self._status(job).state.is_terminal:
            return
        (job / "cancelled").touch()
        if (job / "pid").exists() and not (job / "exit").exists():
            with contextlib.suppress(ProcessLookupError):  # it has ended, and `exit` is not written yet
                os.killpg(int((job / "pid").read_text()), signal.SIGTERM)  # timeout(1) leads a process group

    def delete(self, handle):
        shutil.rmtree(self._job(handle), ignore_errors=True)

    def find(self, labels):
        for path in self.root.glob("s*/request.json"):
            own = json.loads(path.read_text())["labels"]
            if matches(own, labels):
                yield FoundJob(self._handle(path.parent.name), own, path.stat().st_mtime)

    def check(self):
        for program in ("flock", "timeout"):
            yield Finding(shutil.which(program) is not None, program, "a program it needs", "apt install it")
