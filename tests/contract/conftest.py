"""Marks the contract tests that may never fail, not even once."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# If one of these fails, a step ran twice, or ran with a changed payload
NEVER = ("one_job", "changed_payload")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and any(name in item.name for name in NEVER):
            item.add_marker(pytest.mark.once)
