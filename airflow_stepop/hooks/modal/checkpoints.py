"""Checkpoints: snapshots in a second Volume, which a sandbox mounts. Called by the hook.

Each job of a task saves one signed file ``<job>.tar`` in the task's folder, and begins with its own, or else
with the newest one of the earlier jobs. The folder goes with the job that has succeeded.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from airflow_stepop.core.signing_key import derived_keys
from airflow_stepop.hooks.common.input_files import SNAPSHOT, InputFile
from airflow_stepop.hooks.modal.names import CHECKPOINT_FOLDER
from airflow_stepop.hooks.modal.request import checkpoint_folder

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.volume import VolumeFiles
    from airflow_stepop.job import StepSpec
    from airflow_stepop.runner.wire import Checkpoint

MOST_BYTES = 5 << 30  # of one snapshot


def checkpoint_file(spec: StepSpec, files: VolumeFiles) -> InputFile:
    """Return ``checkpoint.json`` of a step: see ``runner/protocol.py``.

    :param files: of the Volume for checkpoints
    """
    folder, own = checkpoint_folder(spec), f"{spec.name}{SNAPSHOT}"
    entries = files.entries(folder) or []
    saved = [one for one in entries if one.path.endswith(SNAPSHOT) and not one.path.endswith(f"/{own}")]
    newest = max(saved, key=lambda one: (one.modified_at, one.path), default=None)
    names = [own, *([newest.path.rpartition("/")[2]] if newest is not None else [])]
    key, *earlier_keys = derived_keys(f"checkpoint\n{folder}")
    table: Checkpoint = {
        "get": [{"url": f"{CHECKPOINT_FOLDER}/{one}", "uri": files.uri(f"{folder}/{one}")} for one in names],
        "put": f"{CHECKPOINT_FOLDER}/{own}",
        "headers": {},
        "key": key.hex(),
        "most_bytes": MOST_BYTES,
        "sync": CHECKPOINT_FOLDER,
    }
    if earlier_keys:
        table["earlier_keys"] = [one.hex() for one in earlier_keys]
    return InputFile([json.dumps(table).encode()], is_secret=True)
