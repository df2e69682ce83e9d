"""Fits a line through (area, price) by least squares."""

from __future__ import annotations

from statistics import linear_regression


def fit(houses: list[dict[str, float]]) -> dict[str, float]:
    """Return the model as plain data."""
    line = linear_regression([house["area"] for house in houses], [house["price"] for house in houses])
    return {"slope": line.slope, "intercept": line.intercept}


def predict(model: dict[str, float], house: dict[str, float]) -> float:
    return model["slope"] * house["area"] + model["intercept"]
