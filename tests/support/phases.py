"""What the runner says of the step of a function, in this order, when it is asked to."""

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
FORKED = "step's process forked"  # by the parent, soon after the manifest was checked: two processes race
