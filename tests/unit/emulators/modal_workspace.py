"""Requests to the emulator of Modal through the real ``modal`` package, by its public methods."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

from tests.support.modal import Modal

MEBIBYTE = 1 << 20


@dataclass
class Workspace:
    """A workspace with one App, as a user of the client sees it."""

    service: Modal
    client: Any
    options: dict[str, Any] = field(default_factory=dict)  # of all sandboxes

    def app(self, name: str = "steps", **options: Any) -> Any:
        import modal

        return modal.App.lookup(name, create_if_missing=True, client=self.client, **options)

    def image(self, tag: str = "python:3.12-slim") -> Any:
        import modal

        return modal.Image.from_registry(tag)

    def volume(self, name: str = "files", **options: Any) -> Any:
        import modal

        return modal.Volume.from_name(name, create_if_missing=True, version=2, client=self.client, **options)

    def create(self, *command: str, app: Any = None, **options: Any) -> Any:
        """Create a sandbox. Without an image it has a plain one."""
        import modal

        given = {"image": self.image(), **self.options, **options}
        return modal.Sandbox.create(*command, app=app or self.app(), client=self.client, **given)

    def ended(self, *command: str, **options: Any) -> Any:
        """Create a sandbox, and wait for its end."""
        sandbox = self.create(*command, **options)
        sandbox.wait(raise_on_termination=False)
        return sandbox

    def simulated(self, name: str, *, run_s: float = 0.0, **plan: Any) -> str:
        """Plan a sandbox that has no process, and return its name."""
        self.service.do("plan", sandbox=name, run=False, run_s=run_s, **plan)
        return name

    def listed(self, **tags: str) -> list[str]:
        """Return the ids of the running sandboxes, as the client lists them."""
        import modal

        app_id = self.app().app_id
        return [one.object_id for one in modal.Sandbox.list(app_id=app_id, tags=tags, client=self.client)]

    def find(self, name: str, **options: Any) -> Any:
        import modal

        return modal.Sandbox.from_name("steps", name, client=self.client, **options)

    def raw(self, rpc: str, request: Any) -> Any:
        """Send a message that the public API does not send, and return the answer; of a stream, a list."""
        from modal._utils.async_utils import synchronizer

        client = synchronizer._translate_in(self.client)

        async def ask() -> Any:
            method = getattr(client._stub, rpc)
            if hasattr(method, "unary_stream"):
                return [answer async for answer in method.unary_stream(request)]
            token = await client._auth_token_manager.get_token()
            return await method(request, metadata=[("x-modal-auth-token", token)])

        return synchronizer.create_blocking(ask)()


def put(volume: Any, path: str, data: bytes, *, force: bool = False) -> None:
    """Upload one file."""
    with volume.batch_upload(force=force) as batch:
        batch.put_file(io.BytesIO(data), path)


def read(volume: Any, path: str) -> bytes:
    return b"".join(volume.read_file(path))


def paths(volume: Any, folder: str = "/", *, recursive: bool = True) -> list[str]:
    return sorted(entry.path for entry in volume.listdir(folder, recursive=recursive))
