"""The key that signs what this deployment writes: references to results, and checkpoints.

``results.py`` signs and verifies references with the key. ``hooks/common/input_files.py`` derives the key of
a task's checkpoint from it.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache

from airflow_stepop.core.host import airflow_folder


@cache
def signing_key() -> bytes:
    """Return the signing key (32 bytes), derived from ``[stepop] signing_key``, else ``[core] fernet_key``.

    If neither is set, the key is derived from a random secret. That secret is kept on this host, in a file
    that only this user can read.
    """
    from airflow.sdk.configuration import conf

    secret = conf.get("stepop", "signing_key", fallback="") or conf.get("core", "fernet_key", fallback="")
    if not secret:
        secret = _key_of_this_host()
    return hashlib.sha256(b"airflow-stepop references\n" + secret.encode()).digest()


def _key_of_this_host() -> str:
    path = airflow_folder("signing_key")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(os.urandom(32).hex())
    try:
        os.link(temporary, path)  # create-only: the first process wins, and the others read its key
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return path.read_text()
