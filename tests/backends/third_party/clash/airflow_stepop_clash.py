"""A backend that claims the name of a built-in one."""

raise SystemExit("nobody may load this")
