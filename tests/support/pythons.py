"""The Pythons of this machine. Tests of the runner run with each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def find_pythons() -> dict[str, str]:
    """Return the newest CPython of every minor version from 3.8 on, from pyenv or the PATH.

    Each interpreter is asked for its version, since a shim of pyenv may lead to no interpreter.
    """
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = {}
    for path in sorted(root.glob("versions/3.*/bin/python")):
        minor = ".".join(path.parts[-3].split(".")[:2])
        if minor.split(".")[1].isdigit() and int(minor.split(".")[1]) >= 8 and _executable(path, minor):
            found[minor] = str(path)
    for number in range(8, 20):
        minor = f"3.{number}"
        for folder in os.get_exec_path():
            path_of = shutil.which(f"python{minor}", path=folder)
            if path_of and minor not in found and (executable := _executable(path_of, minor)):
                found[minor] = executable
    found[f"3.{sys.version_info[1]}"] = sys.executable
    return dict(sorted(found.items(), key=lambda item: int(item[0].split(".")[1])))


def _executable(program: str | Path, minor: str) -> str:
    """Return the interpreter that ``program`` runs; an empty text if its version is not ``minor``."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
    try:
        done = subprocess.run([program, "-c", ask], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    version, _, executable = done.stdout.strip().partition(" ")
    return executable if done.returncode == 0 and version == minor else ""
