"""The phases that the runner reports in debug mode for the step of a function, in this order."""

PHASES = [
    "runner started",
    "manifest checked",
    "code extracted",  # if there is any
    "function loaded",
    "arguments decoded",
    "step ran",
    "result encoded",
    "outcome written",
    "receipt written",
]
# The parent reports it soon after "manifest checked", while the child goes on: two processes race
FORKED = "step's process forked"
