"""The description of this provider, which Airflow reads to discover the provider's parts.

Discovery runs in every Airflow process, so this module imports nothing but ``typing``.
``scripts/configuration_page.py`` writes ``docs/configuration.md`` from the options below.
"""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description in Airflow's schema. ``package-name`` is the distribution's name.

    Airflow calls this function through the entry point ``apache_airflow_provider``.
    """
    return {
        "package-name": "airflow-stepop",
        "name": "Stepop",
        "description": "Run one task of a DAG on other infrastructure, and get its return value back.",
        "task-decorators": [{"name": "remote_step", "class-name": "airflow_stepop.decorators.remote_step"}],
        "extra-links": ["airflow_stepop.links.StepLink"],
        "cli": ["airflow_stepop.cli.get_commands"],
        "config": {
            "stepop": {
                "description": "Defaults for steps. The task's arguments and the connection's settings win.",
                "options": _options(),
            }
        },
    }


def _options() -> dict[str, dict[str, Any]]:
    return {
        "default_backend": _option("Backend of a step whose task names no backend.", "local"),
        "backend_override": _option(
            "Run every step on this backend, even if its task names another one. For development and CI. "
            "A setting that the backend cannot honour then causes a warning instead of an error.",
            example="local",
        ),
        "deferrable": _option(
            "Whether a waiting step gives up its worker slot and waits in the triggerer. "
            "If only the worker's host can see a backend's jobs, as with `local`, the step waits in the "
            "worker unless the task sets `deferrable`.",
            "True",
            kind="boolean",
        ),
        "timeout": _option(
            "Longest run time of a job in seconds. The backend enforces it, even while Airflow is down.",
            "86400",
            kind="float",
        ),
        "poll_interval": _option(
            "Seconds between two polls of the jobs of one backend and connection. "
            "Empty: the backend's own interval, which is 0.5 for `local` and 1.5 for most others.",
            example="5",
        ),
        "capacity_pause": _option(
            "First pause in seconds before a job is submitted again because no machine was free for it. The "
            "pause doubles at each further submission, up to half an hour. Each pause is shortened at "
            "random by up to one half. During the pause the task waits as it waits for a job: if it is "
            "deferrable, in the triggerer.",
            "30",
            kind="float",
        ),
        "max_resubmissions": _option(
            "How often a step is submitted again, without a retry of its task, after its machine was lost or "
            "was not to be had, unless the task sets `max_resubmissions`. The count starts anew after a job "
            "that ran for an hour.",
            "10",
            kind="integer",
        ),
        "store": _option(
            "Address of the store for arguments and results that are too large for a job request. A store "
            "is a folder (file:///folder), or a bucket (s3://conn_id@bucket/prefix with a connection of type "
            "aws, or gs://conn_id@bucket/prefix with one of type google_cloud_platform). Empty: a folder "
            "below Airflow's home, which only this host can read.",
            example="s3://my_aws@my-bucket/stepop",
        ),
        "extra_stores": _option(
            "Further stores, separated by commas. Tasks may name these stores, and results in them may be "
            "read. A connection may name a store, too. A result in any other store is refused. A backend "
            "whose jobs reach only one kind of store uses the first one of that kind, if `store` is empty.",
            example="file:///mnt/archive/stepop",
        ),
        "local_folder": _option(
            "Folder for the jobs of the backend `local`. Empty: a folder below Airflow's home.",
            example="/var/lib/airflow/stepop",
        ),
        "log_limit": _option(
            "How much a step may print into its task's log in Airflow. If a step prints more, the task's log "
            "has the first lines and the last 200 lines. The job's own log has more.",
            "16MB",
        ),
        "debug": _option(
            "Log every phase of a step with its time, in Airflow and in the step, unless the task sets "
            "`debug`. These lines contain no values of the step.",
            "False",
            kind="boolean",
        ),
        "thread_grace": _option(
            "How many seconds a step may go on after its function has ended, because threads that are no "
            "daemons still run. The step's log names these threads. After that time the step ends, with the "
            "value that the function returned.",
            "10",
            kind="float",
        ),
        "deployment": _option(
            "Name of this Airflow deployment in the labels of its jobs and in the paths of its results. "
            "Deployments that share an account or a store need different names, so that no deployment takes "
            "another's jobs and results for its own. airflow stepop sweep --yes needs this name.",
            example="prod-eu",
        ),
        "retention": _option(
            "How many days to keep finished jobs that a task's `keep` spares, and stored results and "
            "checkpoints that nothing refers to. After that, airflow stepop sweep and gc delete them. "
            "0: keep for ever.",
            "30",
            kind="float",
        ),
        "allow_pickle": _option(
            "Whether processes of Airflow load results that only pickle can hold. Loading a pickle runs what "
            "the step made of it. If false, a step that returns such a result fails, and a reference to one "
            "is refused; no task and no connection can change that. A step's function and arguments still "
            "travel pickled, and are loaded in the step.",
            "True",
            kind="boolean",
        ),
        "signing_key": _option(
            "Key that signs the records of steps and references to results: changed ones are refused. "
            "Every host of this deployment needs the same key. To replace a key, give a list with commas. "
            "The first key signs, and all keys verify. "
            "Empty: [core] fernet_key, or without one a random key in a file below Airflow's home.",
            is_sensitive=True,
        ),
        "unsigned_records_until": _option(
            "Until when the records of steps count that an earlier version has written without a "
            "signature: a date or a time, in UTC if it names no zone. Set it for the upgrade if steps run "
            "meanwhile, to when they will have ended. Otherwise their jobs are cancelled, and the steps run "
            "again. Until then, whoever may edit a task's state can forge records. Empty: no unsigned record "
            "counts.",
            example="2027-01-31",
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
