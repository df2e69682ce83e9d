"""The control door for tests: ``POST /_control`` with ``{"do": NAME, ...}``; ``GET /_control`` reports.

A name that does not exist, or an argument that does not exist, is an error 400 with the reason.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tests.emulators.modal import ids
from tests.emulators.modal.faults import Fault, Faults
from tests.emulators.modal.images import RegistryImage
from tests.emulators.modal.sandboxes import STATUS, End
from tests.emulators.modal.settings import Settings, change
from tests.emulators.modal.world import World


class Control:
    """What tests can do to the service. The methods are the names for ``do``.

    ``sandbox`` is a pattern of names or ids.
    """

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self, order: dict[str, Any]) -> dict[str, Any]:
        name = str(order.pop("do", ""))
        method = None if name.startswith("_") or name == "run" else getattr(self, name, None)
        if method is None:
            known = [one for one in dir(self) if not one.startswith("_") and one != "run"]
            raise ValueError(f"no order {name!r}; there are {', '.join(known)}")
        done = method(**order)
        if asyncio.iscoroutine(done):
            await done
        return self._world.report()

    async def reset(self) -> None:
        """End every sandbox, and make all else that of a new emulator."""
        world = self._world
        world.settings.__dict__.update(Settings(shared=world.settings.shared).__dict__)
        world.settings.terminate_s = 0.0
        world.released.clear()
        for sandbox in world.sandboxes.known.values():
            sandbox.plan.hold = []
            sandbox.ask(End("TERMINATED", killed=True))
            sandbox.changes.notify()
        for sandbox in list(world.sandboxes.known.values()):
            await sandbox.wait_over(10.0)
        world.settings.__dict__.update(Settings(shared=world.settings.shared).__dict__)
        world.faults.clear()
        world.faults.__dict__.update(Faults().__dict__)
        for store in (world.sandboxes, world.apps, world.images, world.secrets, world.volumes):
            store.known.clear()
        world.images.registry.clear()
        world.images.published.clear()
        world.accounts.__dict__.update(
            tokens={"ak-test": "as-test"}, environments={"main": ids.object_id("en")}
        )

    def settings(self, **changes: Any) -> None:
        """Change settings of the service."""
        change(self._world.settings, changes)
        self._wake("*")

    def plan(self, sandbox: str, **changes: Any) -> None:
        """Say what happens to sandboxes: to those that are there, and to later ones."""
        change(self._world.settings.plan(sandbox), changes)  # refuse names that do not exist
        self._world.settings.plans.append([sandbox, changes])
        self._world.sandboxes.plan(sandbox, changes)

    def release(self, sandbox: str, phase: str) -> None:
        """Let sandboxes leave a phase in which their plan holds them."""
        self._world.released.add((sandbox, phase))
        self._wake(sandbox)

    def end(self, sandbox: str, status: str, message: str = "", exit_code: int | None = None) -> None:
        """The service ends the sandboxes now, with a status such as ``MEMORY_MANAGER_EVICTION``."""
        STATUS.Value(f"GENERIC_STATUS_{status}")  # refuse names that do not exist
        for one in self._world.sandboxes.matching(sandbox):
            one.ask(End(status, message, exit_code, killed=True))

    def preempt(self, sandbox: str) -> None:
        """The service takes the GPUs of V1 sandboxes. The client is not told why they ended."""
        for one in self._world.sandboxes.matching(sandbox):
            if one.version != 1:
                raise ValueError(f"{one.id}: only a sandbox with a GPU is preempted")
            one.ask(End("TERMINATED", killed=True, grace_s=self._world.settings.kill_after_s))

    def stop(self, app_id: str) -> None:
        """Stop an App, as its page in the dashboard can: its sandboxes are terminated, its name is free."""
        for one in self._world.sandboxes.of_app(app_id):
            one.terminate()
        del self._world.apps.known[app_id]

    def say(self, sandbox: str, text: str) -> None:
        """Write a system line about the sandboxes into the App's logs."""
        for one in self._world.sandboxes.matching(sandbox):
            one.say(text)

    def fault(self, **fields: Any) -> None:
        """Let requests fail; see ``Fault``. ``BlockPut`` and ``BlockGet`` are those of a Volume's blocks."""
        self._world.faults.add(Fault(**fields))

    def clear_faults(self) -> None:
        self._world.faults.clear()

    def forget_calls(self) -> None:
        """Begin to count the answers anew."""
        self._world.faults.answers.clear()

    def token(self, token_id: str, secret: str | None) -> None:
        """Make a token, or revoke it."""
        if secret is None:
            self._world.accounts.tokens.pop(token_id, None)
        else:
            self._world.accounts.tokens[token_id] = secret

    def environment(self, name: str) -> None:
        """Make an environment."""
        self._world.accounts.environments.setdefault(name, ids.object_id("en"))

    def secret(self, name: str, values: dict[str, str], environment: str = "main") -> None:
        """Make a named secret, or replace it."""
        found = self._world.secrets.named(name, environment)
        if found:
            found.values = values
        else:
            self._world.secrets.add(name, environment, values)

    def image(self, tag: str, **fields: Any) -> None:
        """Say how the registry images of a tag (a pattern) are; see ``RegistryImage``."""
        self._world.images.registry.append(RegistryImage(tag, **fields))

    def publish(self, tag: str, entrypoint: list[str] | None = None) -> None:
        """Make a published image ``ENVIRONMENT/NAME:TAG``."""
        self._world.images.publish(tag, entrypoint=entrypoint or [])

    def forget_images(self) -> None:
        """The next use of every image builds it anew."""
        self._world.images.known.clear()

    def _wake(self, pattern: str) -> None:
        for one in self._world.sandboxes.matching(pattern):
            one.changes.notify()
