"""Commits a mounted folder that keeps nothing before it is told to (``--sync DIR``): a Volume of Modal.

The service commits such a folder by itself some time after the end of the job, and of a killed job perhaps
never. So the runner commits it before it writes the receipt: whoever has the receipt can read the outcome.

``sync DIR`` is fsync(2) on the folder. The program is tried first, since the documentation names it; an image
may have none. Source: https://modal.com/docs/guide/volumes ("Volumes v2")

Imported only by jobs with such a folder. Used by :mod:`.receipt` and :mod:`.once`.
"""

from __future__ import annotations

import os

from .files import report


def sync(folder: str) -> bool:
    """Commit the folder; return whether it is committed. An error is reported, and the job goes on."""
    if _by_program(folder):
        return True
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        report(f"the results may come late: {folder} cannot be committed: {error}")
        return False
    return True


def _by_program(folder: str) -> bool:
    try:
        pid = os.posix_spawnp("sync", ["sync", folder], os.environ)
        return os.waitpid(pid, 0)[1] == 0
    except OSError:
        return False
