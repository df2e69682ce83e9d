"""The fixtures of the corpus serve here too."""

from tests.bad_input.conftest import mark  # noqa: F401
