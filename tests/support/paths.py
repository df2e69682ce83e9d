"""The paths of the checkout. Tests take them from here."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = ROOT / "dags_examples"
SCRIPTS = ROOT / "scripts"
