"""Submit steps and kill a process on the way; ``test_crashes.py`` runs this program, as it forks a lot.

``python crash_driver.py submit|wait|supervisor|lookup COUNT FOLDER`` kills a process of the first job at its
first operation (or moment), of the second at the second, and so on up to COUNT. Then it submits each step
again, and prints the jobs. With ``lookup`` it looks each job up instead and submits nothing again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from airflow_stepop.hooks.common.input_files import input_files
from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.hooks.local.supervisor import main as supervisor
from airflow_stepop.testing import Step, make_step

# Audit events of changes that outlive the process. Between two of them, the moment of a crash makes no
# difference.
OPERATIONS = ("open", "os.", "subprocess.Popen", "shutil.", "fcntl.", "ctypes.dlopen", "tempfile.")


def die_at(number: int) -> None:
    """Kill this process, or a fork of it, at its operation ``number`` from now on."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event.startswith(OPERATIONS) and not str(*arguments[:1]).startswith(
            "/proc"
        ):  # reads change nothing
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def in_fork(action: Callable[[], object]) -> None:
    """Run ``action`` in a fork, which may be killed."""
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    os.waitpid(pid, 0)


def crash_submit(hook: LocalStepHook, step: Step, number: int) -> None:
    def submit() -> None:
        die_at(number)
        hook.submit(step.spec, step.payload)

    in_fork(submit)


def crash_wait(hook: LocalStepHook, step: Step, number: int) -> None:
    """Let the submit die while it waits for the supervisor to start."""

    def submit() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.004 * number)  # unhandled, SIGALRM kills
        hook.submit(step.spec, step.payload)
        os.kill(os.getpid(), signal.SIGKILL)

    in_fork(submit)


def crash_supervisor(hook: LocalStepHook, step: Step, number: int) -> None:
    """Run the supervisor in a fork of this process instead of as a program, and kill it on the way."""
    started = []
    real = subprocess.run

    def run(argv: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        started.append(argv[-1])
        return subprocess.CompletedProcess(argv, supervisor.EXIT_SUPERVISED)

    subprocess.run = run  # submit prepares the folder and starts nothing
    hook.submit(step.spec, step.payload)
    subprocess.run = real

    def supervise() -> None:
        die_at(number)
        os._exit(supervisor.main(started[0]))

    in_fork(supervise)


def main(what: str, count: int, folder: Path) -> None:
    hook = LocalStepHook(folder=folder / "jobs")
    typical = make_step(["true"], secrets={"TOKEN": "s3cret"})
    hook.render(typical.spec)  # fills the caches
    input_files(typical.payload, typical.spec)  # builds the runner's zip
    crash = {"wait": crash_wait, "supervisor": crash_supervisor}.get(what, crash_submit)
    crashes = []
    for number in range(1, count + 1):
        marks = folder / f"marks-{number}"
        script = f'test "$TOKEN" = s3cret && echo started >> "{marks}" && sleep 0.05'
        step = make_step(["sh", "-c", script], secrets={"TOKEN": "s3cret"})
        crash(hook, step, number)
        handle = hook.lookup(step.spec) if what == "lookup" else hook.submit(step.spec, step.payload)
        found = handle.to_json() if handle else None
        crashes.append({"marks": str(marks), "nonce": step.spec.nonce, "handle": found})
    print(json.dumps(crashes))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
