"""This host: a stable name for it, and the folder of this package below Airflow's home.

Called by the stores, the results and the backends: they must tell a folder of this host from one of another.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path


@cache
def host_id() -> str:
    """Return a name for this host that stays the same when Airflow restarts."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        machine = ""
    return f"{socket.gethostname()}-{machine}" if machine else socket.gethostname()


def host_of(url: str) -> str:
    """Return this host's name if ``url`` is a folder, which other hosts may not have; else an empty text."""
    return host_id() if url.startswith("file:") else ""


def airflow_folder(name: str) -> Path:
    """Return ``$AIRFLOW_HOME/stepop/<name>``."""
    from airflow.sdk.configuration import conf

    home = os.environ.get("AIRFLOW_HOME") or os.path.dirname(conf.get("core", "dags_folder"))
    return Path(home).expanduser().absolute() / "stepop" / name
