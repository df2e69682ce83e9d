"""The points at which the workers of steps on SageMaker are killed, for the DAGs and for their test."""

# make crashes runs the other points as well
SHORT = ("intended", "submitted", "waiting", "finishing", "saved_deferred", "seen_deferred", "read_deferred")
LONG = (
    *("unintended", "submitting", "saved", "seen", "read", "collected", "returning"),
    *(f"{point}_deferred" for point in ("resumed", "finishing", "collected", "returning")),
)
