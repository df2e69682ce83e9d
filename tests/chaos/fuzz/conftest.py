"""The fixture ``mark`` of the bad input corpus is used here too."""

from tests.support.damage import mark  # noqa: F401
