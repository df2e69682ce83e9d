"""Generates the houses for ``mixed_pipeline.py``."""

from __future__ import annotations

import random


def load(count: int = 200) -> list[dict[str, float]]:
    """Return houses with a price that depends on their area."""
    source = random.Random(1)
    areas = [source.uniform(40, 200) for _ in range(count)]
    return [{"area": area, "price": 50_000 + 2_000 * area + source.gauss(0, 5_000)} for area in areas]
