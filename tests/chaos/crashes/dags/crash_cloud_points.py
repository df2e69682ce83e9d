"""The points at which the workers of steps in clouds are killed, for the DAGs and for their tests.

The first ones of a backend are part of ``make test``, and ``make crashes`` has the others, too.
"""

SHORT = ("intended", "submitted", "waiting", "finishing", "saved_deferred", "seen_deferred", "read_deferred")
LONG = (
    *("unintended", "submitting", "saved", "seen", "read", "collected", "returning"),
    *(f"{point}_deferred" for point in ("resumed", "finishing", "collected", "returning")),
)
SANDBOX_SHORT = ("submitting", "submitted", "read", "finishing_deferred")
SANDBOX_LONG = tuple(point for point in SHORT + LONG if point not in SANDBOX_SHORT)
