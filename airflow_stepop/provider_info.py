"""What Airflow reads about this provider before it loads any of it.

Without imports of its own: discovery runs in every Airflow process.
"""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description in Airflow's schema; ``package-name`` is the distribution's name."""
    return {
        "package-name": "airflow-stepop",
        "name": "Stepop",
        "description": "Run one task of a DAG on other infrastructure, and get its value back.",
        "task-decorators": [{"name": "remote_step", "class-name": "airflow_stepop.decorators.remote_step"}],
        "extra-links": ["airflow_stepop.links.StepLink"],
        "cli": ["airflow_stepop.cli.get_commands"],
        "config": {
            "stepop": {
                "description": "How steps run when neither the task nor the connection says otherwise.",
                "options": _options(),
            }
        },
    }


def _options() -> dict[str, dict[str, Any]]:
    return {
        "default_backend": _option("Backend of a step that names none.", "local"),
        "backend_override": _option(
            "Run every step on this backend, whatever the task says: for development and CI. "
            "What the backend cannot honour is then a warning and not an error.",
            example="local",
        ),
        "deferrable": _option(
            "Whether a waiting step gives up its worker slot and waits in the triggerer. "
            "A backend whose jobs only this host can see waits in the worker unless the task says otherwise.",
            "True",
            kind="boolean",
        ),
        "timeout": _option(
            "Longest run time of a job in seconds. The backend enforces it, also when Airflow is down.",
            "86400",
            kind="float",
        ),
        "poll_interval": _option(
            "Seconds between two looks at the jobs of one backend and connection. "
            "Empty: as the backend has it, 1.5 for most and 0.5 for `local`.",
            example="5",
        ),
        "capacity_pause": _option(
            "Seconds before a job for which no machine was free is submitted again; twice as many each "
            "further time, and up to half of them less at random. The task waits meanwhile as it waits for "
            "its job: in the triggerer, if it may defer.",
            "30",
            kind="float",
        ),
        "store": _option(
            "Address of the store for arguments and results that are too large for a job request: a folder "
            "(file:///folder), or a bucket (s3://conn_id@bucket/prefix, with a connection of type aws). "
            "Empty: a folder below Airflow's home, which only this host can read.",
            example="s3://my_aws@my-bucket/stepop",
        ),
        "extra_stores": _option(
            "Further stores, separated by commas, that tasks may name and whose results may be read. "
            "A result of any other store is refused.",
            example="file:///mnt/archive/stepop",
        ),
        "local_folder": _option(
            "Folder of the local backend's jobs. Empty: a folder below Airflow's home.",
            example="/var/lib/airflow/stepop",
        ),
        "log_limit": _option(
            "How much of a task's log in Airflow its step may take. Of a step that prints more, "
            "the log has the first lines and the last 200; the job's own log has more.",
            "16MB",
        ),
        "debug": _option(
            "Log every phase of a step with its time, in Airflow and in the step, unless the task says "
            "otherwise. No value of the step is in these lines.",
            "False",
            kind="boolean",
        ),
        "deployment": _option(
            "Name of this Airflow deployment in the labels of its jobs and in the paths of its results. "
            "Deployments that share an account or a store need one each, so that none takes another's jobs "
            "and results for its own. airflow stepop sweep --yes needs it.",
            example="prod-eu",
        ),
        "retention": _option(
            "Days that finished jobs are kept which a task's keep spares, and stored results and checkpoints "
            "that nothing refers to. Then airflow stepop sweep and gc delete them. 0: for ever.",
            "30",
            kind="float",
        ),
        "signing_key": _option(
            "Key that signs references to results, so that a changed one is never loaded. "
            "Every host of this deployment needs the same one. "
            "Empty: [core] fernet_key, else a random key in a file below Airflow's home.",
            is_sensitive=True,
        ),
    }


def _option(
    description: str,
    default: str = "",
    *,
    kind: str = "string",
    example: str | None = None,
    is_sensitive: bool = False,
) -> dict[str, Any]:
    option: dict[str, Any] = {
        "description": description,
        "version_added": "0.1.0",
        "type": kind,
        "example": example,
        "default": default,
    }
    return {**option, "sensitive": True} if is_sensitive else option
