"""What tests need of their machine: a server, a cluster, a package of the system.

Where it is absent, the test is skipped. In CI nothing may be absent, so the test fails there.
"""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

T = TypeVar("T")
IS_CI = bool(os.environ.get("STEPOP_CI"))  # .ci/run and the targets that write a page set it


def needs(found: T | None, what: str) -> T:
    """Return ``found``. If it is None or empty, skip the test that runs; in CI, fail the test.

    :param what: what is needed, and how to get it; the line begins with "needs"
    """
    __tracebackhide__ = True  # a report names the caller: each missing thing is a cause of its own
    if found:
        return found
    if IS_CI:
        pytest.fail(f"needs {what}")
    pytest.skip(f"needs {what}")


def needs_cluster() -> None:
    """Skip or fail without a Kubernetes cluster."""
    __tracebackhide__ = True
    needs(
        os.environ.get("KUBECONFIG"),
        "a Kubernetes cluster: set KUBECONFIG (kind create cluster; or k3s, minikube, ...)",
    )


def needs_parts_of_cluster() -> str:
    """Return the command that ends and starts parts of the cluster; see ``tests/chaos/faults/parts.py``."""
    __tracebackhide__ = True
    return needs(
        os.environ.get("STEPOP_CLUSTER"),
        "STEPOP_CLUSTER: a command that starts the parts of the cluster as processes of this host",
    )
