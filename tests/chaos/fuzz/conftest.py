"""The fixture ``mark`` of the tests of bad input is used here too."""

from tests.support.damage import mark  # noqa: F401
