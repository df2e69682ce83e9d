"""The backend that is a dictionary serves here."""

from tests.support.memory_backend import hook, new_try, preempted, state  # noqa: F401 - fixtures
