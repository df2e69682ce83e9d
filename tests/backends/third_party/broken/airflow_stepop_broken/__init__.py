"""Backends that cannot be used, each for another reason."""


class Alien:
    """Not a hook."""
