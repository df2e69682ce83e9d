"""Reads a file when it is imported in a step."""

from __future__ import annotations

import sys
from pathlib import Path

if "airflow.sdk" not in sys.modules:
    CONFIG = (Path(__file__).parent / "unshipped_config.yaml").read_text()


def depth():
    return CONFIG
