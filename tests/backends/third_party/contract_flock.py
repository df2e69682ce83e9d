"""The contract for an installed third-party backend.

``test_third_party.py`` installs it and runs this file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

pytest.register_assert_rewrite("airflow_stepop.testing")

from airflow_stepop.registry import create_hook, hook_class  # noqa: E402
from airflow_stepop.resources import ResourceSettings  # noqa: E402
from airflow_stepop.testing import HookContract  # noqa: E402


class TestFlock(HookContract):
    """The backend comes from its own distribution."""

    unsupported: ClassVar = {"memory": ResourceSettings(memory="1GB"), "nodes": ResourceSettings(nodes=1)}

    @pytest.fixture
    def make_hook(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
        monkeypatch.setattr(hook_class("flock"), "root", tmp_path / "jobs")
        return lambda: create_hook("flock")
