"""The lifecycle of a step in a worker: from the operator's request to its result."""
