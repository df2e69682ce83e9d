"""The command that starts the runner in a job, and the step's environment. A hook's ``render`` calls both.

``runner/main.py`` documents the runner's options. For a service that takes a shell command line, pass the
result of :func:`runner_argv` to ``shlex.join``.
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
    """Return the command as a list of arguments.

    :param python: Python interpreter in the job
    :param inputs: folder in the job with the files of ``input_files``
    :param outputs: folder in the job for the outcome
    :param digest: text to use instead of the manifest's digest, for example a variable that the service
        expands
    :param sees_host: whether the job can read and write the folders of this host, and so a folder store
    :param options: further options of the runner, such as ``receipt="/dev/termination-log"``, ``timeout``,
        ``grace`` (both in seconds); an option that is ``None`` is left out
    """
    words = [python, "-u", f"{inputs}/{RUNNER}", "run", "--in", inputs, "--out", outputs]
    words += ["--digest", digest if digest is not None else spec.digest]
    found = {**options, **_folders(spec, sees_host)}
    for name, value in found.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", value if isinstance(value, str) else f"{value:.15g}"]
    return words


def _folders(spec: StepSpec, sees_host: bool) -> dict[str, str | None]:
    """Return the options for the folders of a folder store that the runner writes to.

    For a bucket, the files ``uploads.json`` and ``checkpoint.json`` in the input folder hold signed
    addresses.
    """
    segments = folder_of(spec.result_uri)
    if sees_host:
        checkpoint = folder_of(spec.checkpoint_uri)
        return {
            "segments": str(segments) if segments is not None else None,
            "checkpoint": str(checkpoint) if checkpoint is not None else None,
        }
    return {"segments": NOWHERE if segments is not None or not spec.result_uri else None}


def step_env(spec: StepSpec) -> dict[str, str]:
    """Return the step's environment: the user's variables, and two that identify the step's processes."""
    return {**spec.env, ENV_JOB: spec.name, ENV_NONCE: spec.nonce}
