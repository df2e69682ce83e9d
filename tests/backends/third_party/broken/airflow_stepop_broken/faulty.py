"""A backend whose import raises."""

HOOK = 1 / 0
