"""Backends that cannot be used, each for a reason of its own."""


class Alien:
    """Not a hook."""
