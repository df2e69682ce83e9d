"""Damaged stored data for tests. One kind is a bomb: a pickle that leaves a mark when somebody loads it.

The conftest of a folder imports the fixture ``mark``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest

from airflow_stepop.job import OutcomeReport

MARK = Path(tempfile.gettempdir()) / f"stepop-corpus-{os.getpid()}"


class Bomb:
    """Creates the mark when it is unpickled. It needs the standard library only."""

    def __init__(self, path: Path = MARK) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def bomb(path: Path = MARK) -> bytes:
    return pickle.dumps(Bomb(path))


def inline(codec: str, data: bytes) -> dict:
    """Return a value entry that carries its bytes."""
    digest = hashlib.sha256(data).hexdigest()
    segment = {"sha256": digest, "size": len(data), "data": base64.b64encode(data).decode()}
    return {"codec": codec, "segments": [segment]}


def bomb_entry(path: Path = MARK) -> dict:
    return inline("pickle", bomb(path))


def report_of(outcome: object, **changes: object) -> OutcomeReport:
    """Return an outcome as a backend reports it, with the right digest unless ``changes`` has another."""
    data = outcome if isinstance(outcome, bytes) else json.dumps(outcome).encode()
    return OutcomeReport(
        **{"digest": hashlib.sha256(data).hexdigest(), "data": data, "base_uri": "", **changes}
    )


@pytest.fixture
def mark():
    """The folder that a bomb creates. It is removed before and after the test."""
    shutil.rmtree(MARK, ignore_errors=True)
    yield MARK
    shutil.rmtree(MARK, ignore_errors=True)
