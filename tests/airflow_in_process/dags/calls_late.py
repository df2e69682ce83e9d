"""Imported inside functions only."""


def late():
    return "late"


def three():
    return 3
