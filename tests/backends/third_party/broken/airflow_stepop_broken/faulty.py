"""Has a mistake."""

HOOK = 1 / 0
