"""A separate Airflow home in the checkout. ``demo.py`` and ``standalone.py`` use this module."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "dags_examples"


def use_home(name: str) -> Path:
    """Set ``AIRFLOW_HOME`` of this process and its children to the folder ``name``, not to the user's home.

    Other Airflow settings are removed from the environment. Connections and variables stay, because examples
    may need them.
    """
    kept = ("AIRFLOW_CONN_", "AIRFLOW_VAR_")
    for variable in list(os.environ):
        if variable.startswith("AIRFLOW") and not variable.startswith(kept):
            del os.environ[variable]
    home = ROOT / name
    home.mkdir(exist_ok=True)
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLES),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return home


def sqlite_url(home: Path) -> str:
    """Return the SQLAlchemy URL of a SQLite database, which a few concurrent tasks can overload."""
    return f"sqlite:///{home}/airflow.db"


def migrate(home: Path) -> None:
    """Create or upgrade the database."""
    log = home / "migrate.log"
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"], stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        sys.exit(f"airflow db migrate failed; its last lines ({log}):\n{tail(log)}")


def start_api() -> None:
    """Start the API that ``dag.test()`` has in this process. Its start is no time of the first task."""
    import httpx
    from airflow.sdk.execution_time.supervisor import in_process_api_server

    with httpx.Client(
        transport=in_process_api_server().transport, base_url="http://in-process.invalid"
    ) as api:
        api.get("/health")


def tail(log: Path, count: int = 30) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
