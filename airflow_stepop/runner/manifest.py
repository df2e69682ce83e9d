"""Reads and checks the manifest, which describes the step. The parent process does this before the fork."""

from __future__ import annotations

import json
import os
import sys

from . import protocol
from .failures import RefusedError
from .hashing import sha256
from .phases import phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .wire import Manifest

_VERSIONS = "both must come from the same airflow-stepop: use the step.pyz that was sent with the job"
_NONE = type(None)
_MANIFEST: dict[str, Any] = {
    "job": str,
    "nonce": str,
    "kind": str,
    "python": (str, _NONE),
    "parts": dict,
    "split": str,
    "discard_result": bool,
    "refs": list,
}


def read_manifest(options: dict[str, str]) -> Manifest:
    """Return the manifest whose SHA-256 is ``options["digest"]``.

    :raises RefusedError: the manifest cannot be read, has another digest, is malformed, or needs another
        runner or another Python version
    """
    phase("runner started")
    path = os.path.join(options["in"], protocol.MANIFEST)
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError as error:
        raise RefusedError(
            "infra", f"The step was not started: its manifest cannot be read: {error}"
        ) from None
    found = sha256(len(data), data).hexdigest()
    if found != options["digest"]:
        raise RefusedError(
            "infra",
            "The step was not started: manifest.json does not have the SHA-256 that the job was submitted "
            f"with, {options['digest']}",
            "the stored input was changed after it was written; clear the task to write it again",
        )
    try:
        manifest = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed(f"it is not JSON ({error})") from None
    version = manifest.get("protocol") if isinstance(manifest, dict) else None
    if version != protocol.PROTOCOL:
        raise RefusedError(
            "bad_config",
            f"The step was not started: its manifest has protocol {str(version)[:80]}, this runner "
            f"has {protocol.PROTOCOL}",
            _VERSIONS,
        )
    for name, kinds in _MANIFEST.items():
        if not isinstance(manifest.get(name, ...), kinds):
            raise _malformed(f"its field {name} is missing or has the wrong type")
    if manifest["kind"] not in ("function", "command") or not isinstance(
        manifest.get(manifest["kind"]), dict
    ):
        raise _malformed("it has neither a function nor a command")
    _check_python(manifest)
    phase("manifest checked")
    return dict(manifest)  # type: ignore[return-value] # its fields are checked above


def _malformed(why: str) -> RefusedError:
    return RefusedError(
        "bad_config", f"The step was not started: its manifest is malformed: {why}", _VERSIONS
    )


def _check_python(manifest: Manifest) -> None:
    wanted, own = manifest.get("python"), f"{sys.version_info[0]}.{sys.version_info[1]}"
    if wanted is None or wanted == own:
        return
    raise RefusedError(
        "bad_config",
        f"The step was not started: its function was pickled with Python {wanted}, and this is Python {own} "
        f"({sys.executable}); bytecode runs only on the Python version that compiled it",
        f"use an image with Python {wanted}; or put the function into a module beside the DAG file, which "
        f"runs on any Python from 3.8; or, with backend local, "
        f"settings={{'python': <path of a Python {wanted}>}}",
        native_reason=f"Python {own}",
    )
