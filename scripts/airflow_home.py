"""An Airflow home of our own, below this folder, for ``make demo`` and ``make airflow``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "dags_examples"


def use_home(name: str) -> Path:
    """Point this process and its children at the Airflow home ``name``, not at the user's own.

    Connections and variables in the environment stay: examples may need them.
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
        "PYTHONWARNINGS": "ignore",
    }
    return home


def sqlite_url(home: Path) -> str:
    """Return the address of a database in a file; a few tasks at once are too much for it."""
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


def tail(log: Path, count: int = 30) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
