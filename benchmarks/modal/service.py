"""What the benchmarks of this folder share: a workspace of Modal, and sandboxes in it.

The workspace is the emulator of the tests (``tests/emulators/modal``), a process of its own to which the real
package ``modal`` speaks. It counts the requests.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from airflow_stepop.connections.modal import close_clients
from airflow_stepop.hooks.modal.hook import ModalStepHook
from airflow_stepop.job import JobHandle
from benchmarks.measure import is_installed
from benchmarks.processes import quieten, variables
from tests.support.modal import Modal, modal
from tests.support.modal_many import simulated

CONN_ID = "modal_default"
STATES = ("SandboxListV2", "SandboxWait", "SandboxWaitV2", "SandboxGetTaskId", "SandboxGetTaskIdV2")


@dataclass(frozen=True)
class Calls:
    """How many requests the workspace has answered, by RPC and answer (``"SandboxListV2 OK"``)."""

    counted: Mapping[str, int]

    def __sub__(self, before: Calls) -> Calls:
        return Calls({name: count - before.counted.get(name, 0) for name, count in self.counted.items()})

    def of(self, *rpcs: str) -> int:
        """Return the requests of some RPCs; of all without a name."""
        return sum(count for name, count in self.counted.items() if not rpcs or name.split()[0] in rpcs)

    def by_rpc(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for name, count in self.counted.items():
            if count:
                found[name.split()[0]] = found.get(name.split()[0], 0) + count
        return found

    def text(self) -> str:
        return ", ".join(f"{count} {rpc}" for rpc, count in sorted(self.by_rpc().items()))


@dataclass(frozen=True)
class Room:
    """A workspace for one benchmark.

    :param address: address of the store of its steps: a folder of this host
    """

    service: Modal
    address: str

    def created(self, count: int) -> list[JobHandle]:
        """Create simulated sandboxes, and return when all of them run."""
        return simulated(ModalStepHook(), self.service, count)

    def calls(self) -> Calls:
        return Calls(self.service.report()["calls"])


def why_not() -> str:
    """Return why these benchmarks cannot run here; empty when they can."""
    missing = [name for name in ("modal", "airflow.providers.modal") if not is_installed(name)]
    return f"install {', '.join(missing)}" if missing else ""


@contextlib.contextmanager
def room() -> Iterator[Room]:
    """Start a workspace, and the connection to it; end it at the end."""
    quieten()
    with tempfile.TemporaryDirectory(prefix="stepop-bench-") as folder, modal() as service:
        given = {
            **service.environment,
            "AIRFLOW_CONN_MODAL_DEFAULT": service.connection(),
            "AIRFLOW__STEPOP__STORE": f"file://{folder}",
        }
        with variables(given):
            try:
                yield Room(service, f"file://{folder}")
            finally:
                close_clients()
