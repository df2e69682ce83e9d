"""The frame and the output of every ``airflow stepop`` command.

The commands print as Airflow's own commands do, except that JSON and YAML keep numbers, lists and null as
such.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from typing import TYPE_CHECKING, Any

from airflow_stepop.core.printable import printable_text

if TYPE_CHECKING:
    from argparse import Namespace

Row = dict[str, Any]
_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"  # "server" lets Airflow's SDK read connections from the database


def command(function: Callable[[Namespace], None]) -> Callable[[Namespace], None]:
    """Decorate a command: hide Airflow's log, and print an expected error as one line without a traceback.

    With ``--verbose`` the log and the traceback are shown.
    """

    @wraps(function)
    def run(args: Namespace) -> None:
        from airflow.utils.cli import suppress_logs_and_warning
        from sqlalchemy.exc import DBAPIError

        from airflow_stepop.exceptions import StepopError
        from airflow_stepop.inventory.database import database_trouble

        try:
            with _database_of_airflow():
                suppress_logs_and_warning(function)(args)
                sys.stdout.flush()
        except StepopError as error:
            raise SystemExit(_said(error)) from (error if args.verbose else None)
        except DBAPIError as error:
            raise SystemExit(_said(database_trouble(error))) from (error if args.verbose else None)
        except KeyboardInterrupt:
            raise SystemExit(130) from None
        except BrokenPipeError:  # the reader has closed the pipe, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return run


@contextmanager
def _database_of_airflow() -> Iterator[None]:
    """Let the command read connections from Airflow's database, as ``airflow connections`` does."""
    before = os.environ.get(_CONTEXT)
    os.environ[_CONTEXT] = "server"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_CONTEXT]
        else:
            os.environ[_CONTEXT] = before


def complain(problems: Iterable[str]) -> bool:
    """Print each problem to standard error; return whether there was a problem."""
    found = list(problems)
    for problem in found:
        print(_said(problem), file=sys.stderr)
    return bool(found)


def _said(problem: object) -> str:
    """Return a line, or lines, for people: an error may have a text of a service, a record or a folder."""
    return printable_text(f"airflow stepop: {problem}")


TABLES = ("table", "plain")  # outputs for people; the others are for programs


def print_rows(rows: Sequence[Row], output: str) -> None:
    """Print rows with the same keys. A key has no space in JSON and YAML; a table shows a space for ``_``.

    ``plain`` prints one line of any length for each row: nothing is cut, so each cell can be copied.
    """
    if output not in TABLES:
        print_tree(list(rows), output)
        return
    from airflow.cli.simple_table import AirflowConsole
    from rich.markup import escape

    # In a table, rich would drop "[modal]" of "airflow-stepop[modal]"
    text = (lambda value: escape(_cell(value))) if output == "table" else _cell

    def shown(row: Row) -> dict[str, str]:
        return {key.replace("_", " "): text(value) for key, value in row.items()}

    AirflowConsole().print_as(data=rows, output=output, mapper=shown)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key}={part}" for key, part in value.items())
    elif isinstance(value, Iterable) and not isinstance(value, str):
        value = ", ".join(map(str, value))
    # A label, or an error text, may have what a terminal takes for an order
    return "" if value is None else printable_text(str(value)).replace("\n", " ")


def print_tree(data: Row | list[Row], output: str) -> None:
    from airflow.utils import yaml

    text = json.dumps(data, indent=2, default=str)
    print(text if output == "json" else yaml.dump(json.loads(text), sort_keys=False).rstrip())


def shown_time(at: float | None) -> str | None:
    """Return a time in UTC, to the second."""
    return None if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def shown_duration(seconds: float | None) -> str | None:
    """Return a duration for the table: ``42s``, ``3m05s``, ``2h07m``, ``3d04h``."""
    if seconds is None:
        return None
    minutes, left = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{left}s"
    if minutes < 60:
        return f"{minutes}m{left:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"
