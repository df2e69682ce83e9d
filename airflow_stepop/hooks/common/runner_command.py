"""The command that starts the runner in a job, and the environment that the step gets.

``runner/main.py`` says what each option means. ``shlex.join`` of the words is the command for a service that
takes a line of a shell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.runner.protocol import ENV_JOB, ENV_NONCE, NOWHERE, RUNNER
from airflow_stepop.stores.folder import folder_of

if TYPE_CHECKING:
    from airflow_stepop.job import StepSpec


def runner_argv(
    python: str,
    spec: StepSpec,
    *,
    inputs: str,
    outputs: str,
    digest: str | None = None,
    sees_host: bool = False,
    **options: str | float | None,
) -> list[str]:
    """Return the words of the command.

    :param python: the interpreter in the job
    :param inputs: folder with the files of ``input_files``
    :param outputs: folder for the outcome
    :param digest: what names the digest of the manifest in the job; by default the digest itself
    :param sees_host: the job sees the folders of this host, and so the folder of the store
    :param options: further options of the runner, such as ``receipt="/dev/termination-log"``, ``timeout``,
        ``grace``; ``None`` leaves one out
    """
    words = [python, "-u", f"{inputs}/{RUNNER}", "run", "--in", inputs, "--out", outputs]
    words += ["--digest", digest if digest is not None else spec.digest]
    found = {**options, **_folders(spec, sees_host)}
    for name, value in found.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", value if isinstance(value, str) else f"{value:.15g}"]
    return words


def _folders(spec: StepSpec, sees_host: bool) -> dict[str, str | None]:
    """Return the folders of the store that the job writes to; those in a bucket are in the input folder."""
    segments = folder_of(spec.result_uri)
    if sees_host:
        checkpoint = folder_of(spec.checkpoint_uri)
        return {
            "segments": str(segments) if segments is not None else None,
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
        }
    return {"segments": NOWHERE if segments is not None or not spec.result_uri else None}


def step_env(spec: StepSpec) -> dict[str, str]:
    """Return the environment of the step: the user's, and by what the step's processes are known."""
    return {**spec.env, ENV_JOB: spec.name, ENV_NONCE: spec.nonce}
