"""The fixtures of the corpus serve here too."""

from tests.support.damage import mark  # noqa: F401
