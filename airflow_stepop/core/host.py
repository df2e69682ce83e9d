"""This host: a name for it that lasts, and the folder that Airflow has on it."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


@cache
def host_id() -> str:
    """Return a name for this host that stays the same over restarts of Airflow."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        machine = ""
    return f"{socket.gethostname()}-{machine}" if machine else socket.gethostname()


def host_of(url: str) -> str:
    """Return this host's name when ``url`` is a folder that another one may not have."""
    return host_id() if url.startswith("file:") else ""


def airflow_folder(name: str) -> Path:
    """Return ``$AIRFLOW_HOME/stepop/<name>``."""
    from airflow.sdk.configuration import conf

    home = os.environ.get("AIRFLOW_HOME") or os.path.dirname(conf.get("core", "dags_folder"))
    return Path(home).expanduser().absolute() / "stepop" / name
