"""Climbs up with a relative import."""

from .. import twig  # noqa: TID252 - the point of it


def grow(number):
    return [twig.NAME] * number
