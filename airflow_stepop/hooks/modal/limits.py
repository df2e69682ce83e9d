"""The times of a sandbox, and the sizes that its request may have, as pure functions.

Sources: https://modal.com/docs/guide/sandboxes (24 hours), and the client 1.6: 65,536 bytes of arguments. The
service bounds the environment and the secrets of a sandbox; nobody has published the bound, and 64 KiB work.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from airflow_stepop.exceptions import StepConfigError, UnsupportedError
from airflow_stepop.hooks.modal.settings import LONGEST_S

if TYPE_CHECKING:
    from airflow_stepop.hooks.modal.settings import ModalSettings

# between the end of the step's time and the end of the sandbox: for the signals, the outcome and its upload
AFTER_S = 120
GRACE_S = 60  # of these, between SIGTERM and SIGKILL
ARGUMENT_BYTES, ENVIRONMENT_BYTES = 65_536, 65_536


class Times(NamedTuple):
    """The two limits of a step, in seconds.

    :param step_s: the runner stops the step then, and its outcome says so
    :param sandbox_s: Modal ends the sandbox then, even if nothing in it works any more
    """

    step_s: float
    sandbox_s: int


def times_of(settings: ModalSettings, timeout_s: float) -> Times:
    """Return the limits of a step.

    The sandbox runs 120 seconds longer than the step, and at most 24 hours. So the last two minutes of a
    timeout of 24 hours belong to the outcome, and not to the step.

    :param timeout_s: the step's timeout; ``ModalSettings.timeout_or`` has chosen that of a step without one
    :raises StepConfigError: ``timeout`` of the task and of the settings disagree, or are above 24 hours
    """
    found, named = math.ceil(timeout_s), settings.timeout
    if named not in (None, found):
        raise StepConfigError(f"settings.timeout={named} contradicts timeout={found}; set one of them")
    if found > LONGEST_S:
        raise StepConfigError(
            f"timeout={found}: Modal runs a sandbox for at most 24 hours; write timeout={LONGEST_S} or less. "
            "A longer step can save checkpoints (checkpoint=True) and go on in the task's next try"
        )
    step_s = min(timeout_s, float(LONGEST_S - AFTER_S))
    return Times(step_s, math.ceil(step_s) + AFTER_S)


def check_sizes(args: Sequence[str], env: Mapping[str, str], secret_bytes: int) -> None:
    """Check what Modal bounds.

    :param secret_bytes: names and values of the variables that only the sandbox gets
    :raises UnsupportedError: the arguments, or the environment and the secrets, are too large
    """
    if (count := sum(len(arg.encode()) for arg in args)) > ARGUMENT_BYTES:
        raise UnsupportedError(
            f"the step's command line has {count} bytes, and Modal takes at most {ARGUMENT_BYTES}"
        )
    count = secret_bytes + sum(len(name.encode()) + len(value.encode()) for name, value in env.items())
    if count > ENVIRONMENT_BYTES:
        raise UnsupportedError(
            f"env and secrets of the step have {count} bytes together, and a sandbox of Modal takes "
            f"{ENVIRONMENT_BYTES}; pass large values as arguments of the step"
        )
