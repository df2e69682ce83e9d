"""Beside the script."""


def fit():
    return {"fitted": True}
