"""Promises of the contract whose breach no second run can excuse."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# a step that ran twice, and one that ran although its payload was changed
NEVER = ("one_job", "changed_payload")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and any(name in item.name for name in NEVER):
            item.add_marker(pytest.mark.once)
