"""The commands of ``airflow stepop``: list backends, check them, look at jobs, and clean up.

This module declares the commands and their options. Airflow calls ``get_commands`` for every ``airflow``
command. So this module imports nothing at load time, and each command loads its own module when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand

DOCS = {
    "list": "Show the backends, and the connections that reach them",
    "describe": "Show a backend's settings, resources and limits, or the defaults of a connection",
    "render": "Print what a task would send: its payload, and the request to its backend; send nothing",
    "check": "Check that backends, connections and stores work; exit with 1 if one does not",
    "jobs": "Show the jobs of this deployment: state, duration, usage, link",
    "logs": "Print the log of a job",
    "cancel": "Cancel a job",
    "sweep": "Find jobs that no live task owns; with --yes cancel and delete them",
    "gc": "Find stored data that nothing needs any more; with --yes delete it",
}
MODULES = {
    "list": "backends",
    "describe": "backends",
    "render": "render",
    "check": "check",
    "jobs": "jobs",
    "logs": "jobs",
    "cancel": "jobs",
    "sweep": "cleaning",
    "gc": "cleaning",
}


def get_commands() -> list[CLICommand]:
    """Return the commands. Airflow finds this function through ``provider_info.get_provider_info``."""
    from airflow.cli.cli_config import ActionCommand, GroupCommand, lazy_load_command

    arguments = _arguments()
    return [
        GroupCommand(
            name="stepop",
            help="Run tasks on other infrastructure (airflow-stepop)",
            subcommands=tuple(
                ActionCommand(
                    name=name,
                    help=text,
                    func=lazy_load_command(f"{__name__}.{MODULES[name]}.{name}_command"),
                    args=arguments[name],
                )
                for name, text in DOCS.items()
            ),
        )
    ]


def _arguments() -> dict[str, tuple[Any, ...]]:
    from airflow.cli.cli_config import Arg

    verbose = Arg(("-v", "--verbose"), help="Also show Airflow's log and tracebacks", action="store_true")
    formats = ("table", "plain", "json", "yaml")
    table = Arg(
        ("-o", "--output"), help="Format of the output (default: table)", choices=formats, default="table"
    )
    any_form = Arg(
        ("-o", "--output"), help="Format of the output (default: yaml)", choices=formats, default="yaml"
    )
    number = Arg(
        ("--map-index",), help="Which instance of a mapped task (default: the first)", type=int, default=0
    )
    file = Arg(("-f", "--dagfile-path"), help="Look for the DAG in this file or folder only")
    ids = (
        Arg(("dag_id",), help="The id of the DAG"),
        Arg(("task_id",), help="The id of a remote step in this DAG"),
    )
    backend = Arg(("backend",), help="The name of a backend (airflow stepop list), or the id of a connection")
    fit = Arg(
        ("--fit",),
        help="Show only the machine types with these resources: cpu=4,memory=16GB,gpu=1,gpu_type=A100",
    )
    conn = Arg(("conn_id",), help="Check only this connection or this backend", nargs="?")
    trial = (
        Arg(("--run",), help="Also run a step that does nothing, and delete its job", action="store_true"),
        Arg(("--image",), help="Container image of the step of --run (default: the backend's)"),
        Arg(
            ("--resources",),
            help='Resources of the step of --run, as JSON: {"cpu_count": 1, "memory": "1GiB"}',
        ),
        Arg(("--settings",), help="Settings of the backend for this check and the step of --run, as JSON"),
        Arg(("--namespace",), help="Namespace to check and to run the step in, on Kubernetes"),
        Arg(
            ("--limit",), help="Time limit of this step in seconds (default: 300)", type=float, default=300.0
        ),
    )
    also = Arg(
        ("--conn-id",),
        help="Also search this connection, because those of a secrets backend cannot be listed; repeatable",
        action="append",
        default=[],
    )
    job = Arg(("job",), help="The job's name or id, or a prefix that no other job has")
    follow = Arg(("--follow",), help="Keep printing until the job has ended", action="store_true")
    yes = Arg(
        ("-y", "--yes"),
        help="Really do it; without --yes, only print what would be done",
        action="store_true",
    )
    age = Arg(
        ("--min-age",),
        help="Skip jobs that were submitted less than this many minutes ago (default: 10)",
        type=float,
        default=10.0,
    )
    retention = Arg(
        ("--retention",), help="Days to use instead of [stepop] retention; 0 keeps everything", type=float
    )
    each = Arg(
        ("--each",), help="Print one line for each folder instead of one for each kind", action="store_true"
    )
    runs = (
        Arg(("--dag-id",), help="Only jobs of this DAG"),
        Arg(("--run-id",), help="Only jobs of this DAG run"),
        Arg(
            ("--state",),
            help="Only jobs in this state; repeatable",
            choices=("pending", "running", "succeeded", "failed", "cancelled"),
            action="append",
        ),
        Arg(("--wide",), help="Also print backend, DAG, run, duration and link", action="store_true"),
    )
    return {
        "list": (table, verbose),
        "describe": (backend, fit, table, verbose),
        "render": (*ids, number, file, any_form, verbose),
        "check": (conn, *trial, table, verbose),
        "jobs": (*runs, also, table, verbose),
        "logs": (job, follow, also, verbose),
        "cancel": (job, also, verbose),
        "sweep": (yes, age, retention, also, table, verbose),
        "gc": (yes, retention, each, table, verbose),
    }
