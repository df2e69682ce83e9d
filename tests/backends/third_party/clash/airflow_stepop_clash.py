"""Wants the name of a built-in backend."""

raise SystemExit("nobody may load this")
