"""The fixtures of the corpus serve here too."""

from tests.corpus.conftest import mark  # noqa: F401
