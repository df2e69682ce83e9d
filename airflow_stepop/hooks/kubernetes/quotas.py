"""Reads the API server's message about an object that a quota refuses.

https://github.com/kubernetes/kubernetes/tree/v1.34.0/staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota
"""

from __future__ import annotations

import re

from airflow_stepop.hooks.kubernetes.resources import amount_of

_EXCEEDED = re.compile(r"exceeded quota: (\S+), requested: (\S+), used: (\S+), limited: (\S+)")
_USED = re.compile(r"(exceeded quota: \S+, requested: \S+), used: \S+,")


def beyond_quota(message: str) -> str:
    """Return which amounts are larger than the whole quota; empty when the object may fit later.

    A quota of zero pods or Jobs is no amount that a step could ask less of: an administrator has closed the
    namespace, and may open it again.
    """
    found = _EXCEEDED.search(message)
    if found is None:
        return ""
    quota, requested, _, limited = found.groups()
    limits = _amounts(limited)
    beyond = [
        f"{amount} {what} of {limits[what]}"
        for what, amount in _amounts(requested).items()
        if what in limits and not _is_count(what) and _is_more(amount, limits[what])
    ]
    return f"{', '.join(beyond)} in quota {quota}" if beyond else ""


def without_usage(message: str) -> str:
    """Return the message without the current use of a quota, which changes with every other pod."""
    return _USED.sub(r"\1,", message)


def _amounts(listed: str) -> dict[str, str]:
    pairs = (one.partition("=") for one in listed.rstrip(".").split(","))
    return {what: amount for what, _, amount in pairs}


def _is_count(what: str) -> bool:
    return what in ("pods", "secrets") or what.startswith("count/")


def _is_more(amount: str, limit: str) -> bool:
    try:
        return amount_of(amount) > amount_of(limit)
    except ValueError:
        return False
