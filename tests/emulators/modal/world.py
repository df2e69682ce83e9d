"""What all parts of the emulator share: settings, faults, stores, and where files lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.emulators.modal.changes import Changes
from tests.emulators.modal.faults import Faults
from tests.emulators.modal.settings import Settings

if TYPE_CHECKING:
    from tests.emulators.modal.accounts import Accounts
    from tests.emulators.modal.apps import Apps
    from tests.emulators.modal.images import Images
    from tests.emulators.modal.log_store import LogStore
    from tests.emulators.modal.sandboxes import Sandboxes
    from tests.emulators.modal.secret_store import Secrets
    from tests.emulators.modal.volumes import Volumes


class World:
    """One workspace. Everything runs in one event loop, so there are no locks."""

    accounts: Accounts
    apps: Apps
    images: Images
    secrets: Secrets
    volumes: Volumes
    sandboxes: Sandboxes
    logs: LogStore

    def __init__(self, settings: Settings, python: str, folder: Path) -> None:
        self.settings = settings
        self.faults = Faults()
        self.python = python
        self.folder = folder
        self.released: set[tuple[str, str]] = set()  # (pattern of sandbox names, phase)
        self.changes = Changes()
        self.http = ""  # the address of the blocks and of the control door
        self.grpc = ""  # the address of the API

    def report(self) -> dict[str, Any]:
        """Return what the emulator knows, as JSON."""
        return {
            "calls": dict(self.faults.answers),
            "held": list(self.faults.held),
            "apps": self.apps.report(),
            "images": self.images.report(),
            "secrets": self.secrets.report(),
            "volumes": self.volumes.report(),
            "sandboxes": self.sandboxes.report(),
        }
