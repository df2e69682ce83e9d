"""``airflow stepop``: see what there is, what runs, what is wrong, and clean up.

One module per group of commands. Airflow imports this package for every one of its commands: it loads nothing
before one of ours is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.cli.cli_config import CLICommand

DOCS = {
    "list": "Show the backends, and the connections that reach them",
    "describe": "Show a backend's settings, resources and limits, or the defaults of a connection",
    "render": "Print the request that a task would send to its backend; send nothing",
    "check": "Check that backends, connections and stores work; exit with 1 when one does not",
    "jobs": "Show the jobs of this deployment: state, duration, usage, link",
    "logs": "Print what a job has printed",
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
    """Return the commands; Airflow finds this function through the provider's description."""
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

    verbose = Arg(("-v", "--verbose"), help="Show the log too", action="store_true")
    formats = ("table", "json", "yaml")
    table = Arg(
        ("-o", "--output"), help="Format of the output (default: table)", choices=formats, default="table"
    )
    tree = Arg(
        ("-o", "--output"), help="Format of the output (default: yaml)", choices=formats[1:], default="yaml"
    )
    number = Arg(
        ("--map-index",), help="Which instance of a mapped task (default: the first)", type=int, default=0
    )
    file = Arg(("-f", "--dagfile-path"), help="Look for the DAG in this file or folder only")
    ids = (
        Arg(("dag_id",), help="The id of the DAG"),
        Arg(("task_id",), help="The id of a remote step in it"),
    )
    backend = Arg(("backend",), help="A backend from: airflow stepop list, or the id of a connection")
    conn = Arg(("conn_id",), help="Check this connection, or this backend, only", nargs="?")
    trial = (
        Arg(("--run",), help="Run a step that does nothing, and remove it", action="store_true"),
        Arg(("--image",), help="The image that this step runs in (default: the backend's)"),
        Arg(("--limit",), help="Seconds that this step may take (default: 300)", type=float, default=300.0),
    )
    also = Arg(
        ("--conn-id",),
        help="Look through this connection too: one of a secrets backend cannot be listed; may be repeated",
        action="append",
        default=[],
    )
    job = Arg(("job",), help="Its name or id, or the beginning of one that no other job has")
    follow = Arg(("--follow",), help="Go on until the job is over", action="store_true")
    yes = Arg(("-y", "--yes"), help="Do it; without, only say what would be done", action="store_true")
    age = Arg(
        ("--min-age",),
        help="Leave jobs alone that were submitted within so many minutes (default: 10)",
        type=float,
        default=10.0,
    )
    retention = Arg(
        ("--retention",), help="Days, instead of the configured retention; 0 keeps everything", type=float
    )
    each = Arg(("--each",), help="One line for each thing, and not for each kind", action="store_true")
    runs = (
        Arg(("--dag-id",), help="Only jobs of this DAG"),
        Arg(("--run-id",), help="Only jobs of this run"),
    )
    return {
        "list": (table, verbose),
        "describe": (backend, table, verbose),
        "render": (*ids, number, file, tree, verbose),
        "check": (conn, *trial, table, verbose),
        "jobs": (*runs, also, table, verbose),
        "logs": (job, follow, also, verbose),
        "cancel": (job, also, verbose),
        "sweep": (yes, age, retention, also, table, verbose),
        "gc": (yes, retention, each, table, verbose),
    }
