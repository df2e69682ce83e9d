"""The tests of this folder use the backend in memory."""

from tests.support.memory_backend import hook, new_try, preempted, registered, state  # noqa: F401 - fixtures
