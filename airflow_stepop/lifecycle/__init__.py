"""The lifecycle of a step in a worker, from the operator's arguments to the result."""
