"""The command that starts the runner in a job, and the step's environment. A hook's ``render`` calls both.

``runner/main.py`` documents the runner's options. For a service that takes a shell command line, pass the
result of :func:`runner_argv` to ``shlex.join``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.hooks.common.bootstrap import BOOTSTRAP
from airflow_stepop.runner.protocol import ENV_JOB, ENV_NONCE, NOWHERE, RUNNER
from airflow_stepop.stores.folder import NO_MOUNTS, THIS_HOST, folder_of, path_in_job

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_stepop.job import StepSpec


def runner_argv(  # noqa: PLR0913 - each is a word of the command
    python: str,
    spec: StepSpec,
    *,
    inputs: str,
    outputs: str,
    digest: str | None = None,
    mounts: Mapping[str, str] = NO_MOUNTS,
    runner_digest: str | None = None,
    has_output_folder: bool = False,
    **options: str | float | None,
) -> list[str]:
    """Return the command as a list of arguments.

    :param python: Python interpreter in the job
    :param inputs: folder in the job with the files of ``input_files``
    :param outputs: folder in the job for the outcome
    :param digest: text to use instead of the manifest's digest, for example a variable that the service
        expands
    :param mounts: what the job can read and write as files: see
        :func:`~airflow_stepop.stores.folder.path_in_job`
    :param runner_digest: SHA-256 of ``step.pyz`` in hexadecimal digits, for a service that reads ``step.pyz``
        from a bucket. The command then runs exactly these bytes, or ends with exit code 64 (see
        :mod:`.bootstrap`). ``None``: whoever can write to the input folder can change the runner
    :param has_output_folder: as for ``input_files``: large values go into ``outputs``, too, whatever the
        store is
    :param options: further options of the runner, such as ``receipt="/dev/termination-log"``, ``timeout``,
        ``grace`` (both in seconds); an option that is ``None`` is left out
    """
    program = [f"{inputs}/{RUNNER}"]
    if runner_digest is not None:
        program = ["-c", BOOTSTRAP, *program, runner_digest]
    words = [python, "-u", *program, "run", "--in", inputs, "--out", outputs]
    words += ["--digest", digest if digest is not None else spec.digest]
    found = {**options, **_folders(spec, mounts)}
    if has_output_folder:
        found["segments"] = None
    for name, value in found.items():
        if value is not None:
            words += [f"--{name.replace('_', '-')}", value if isinstance(value, str) else f"{value:.15g}"]
    return words


def _folders(spec: StepSpec, mounts: Mapping[str, str]) -> dict[str, str | None]:
    """Return the options for the folders of the store that the runner writes to.

    For a bucket that the job does not see as files, ``uploads.json`` and ``checkpoint.json`` in the input
    folder hold signed addresses.
    """
    segments = path_in_job(spec.result_uri, mounts)
    has_no_bucket = not spec.result_uri or folder_of(spec.result_uri) is not None
    if segments is None and has_no_bucket and mounts != THIS_HOST:
        segments = NOWHERE
    return {"segments": segments, "checkpoint": path_in_job(spec.checkpoint_uri, mounts)}


def step_env(spec: StepSpec) -> dict[str, str]:
    """Return the step's environment: the user's variables, and two that identify the step's processes."""
    return {**spec.env, ENV_JOB: spec.name, ENV_NONCE: spec.nonce}
