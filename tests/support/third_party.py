"""Backends of other distributions. An entry point on Python's path leads to each."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_stepop.hooks.local import LocalStepHook
from airflow_stepop.job import Finding
from airflow_stepop.registry import ENTRY_POINT_GROUP


class LackingHook(LocalStepHook):
    """Runs steps on this host. Its check reports a missing role."""

    backend = "lacking"

    def check(self):
        return [Finding(False, "role", "it is missing", "apply this:\nkind: Role")]


def write_distribution(folder: Path, name: str, hook: str) -> None:
    """Write the metadata of a distribution that has a backend. Python finds it with ``folder`` on its path.

    :param hook: ``module:class``
    """
    info = folder / f"airflow_stepop_{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: airflow-stepop-{name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{name} = {hook}\n")


def install_backend(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, hook: str) -> None:
    """Install a distribution for the length of a test.

    :param folder: an empty one
    :param hook: ``module:class``
    """
    write_distribution(folder, name, hook)
    monkeypatch.syspath_prepend(folder)
