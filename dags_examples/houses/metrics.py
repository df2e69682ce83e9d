"""Measures the quality of a prediction."""

from __future__ import annotations

from statistics import fmean


def relative_error(predicted: list[float], actual: list[float]) -> float:
    """Return the mean of |predicted - actual| / actual."""
    return fmean(abs(p - a) / a for p, a in zip(predicted, actual, strict=True))
