"""A module of a package, with relative imports."""

from . import twig  # noqa: TID252 - the point of it
from .inner.seed import grow  # noqa: TID252


def name():
    return twig.NAME


def relative():
    return grow(2)
