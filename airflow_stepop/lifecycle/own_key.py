"""Warns if a step leaves this host, and the signing key does not. The lifecycle calls it at each submit.

Then another host refuses the records, and with them the results, that this host signs. A worker on another
host ends the running job and starts the step anew, so the warning comes with the first step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_stepop.core.host import airflow_folder, host_of
from airflow_stepop.core.signing_key import OWN_KEY, OWN_KEY_FIX, is_of_this_host_only

if TYPE_CHECKING:
    from airflow.sdk.types import Logger

    from airflow_stepop.hooks.base import StepHook
    from airflow_stepop.job import StepSpec

WARNED = "signing_key.warned"  # file beside the key: a step of this host has warned


def warn_of_own_key(hook: StepHook, spec: StepSpec, log: Logger) -> None:
    """Warn once per host, in the log of the first step whose backend or store is not this host's own."""
    if not is_of_this_host_only():
        return
    away = [] if hook.is_host_bound else [f"the backend {hook.backend!r}"]
    if spec.result_uri and not host_of(spec.result_uri):
        away.append(f"the store of {spec.result_uri}")
    if away and _is_first():
        verb = "is" if len(away) == 1 else "are"
        log.warning(
            "%s, while %s %s for all hosts of this Airflow. What to do: %s. This warning comes once per host",
            OWN_KEY[:1].upper() + OWN_KEY[1:],
            " and ".join(away),
            verb,
            OWN_KEY_FIX,
        )


def _is_first() -> bool:
    """Return whether no step of this host has warned; of several processes at the same time, one gets it."""
    path = airflow_folder(WARNED)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        return False
    except OSError:
        return True  # a home that cannot be written to: rather too often than never
    return True
