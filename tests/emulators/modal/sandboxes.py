"""Sandboxes: what the service knows of them, and how they are found."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.apps import App
from tests.emulators.modal.changes import Changes
from tests.emulators.modal.errors import not_found
from tests.emulators.modal.log_store import STDERR, STDOUT, SYSTEM, Output
from tests.emulators.modal.settings import change
from tests.emulators.modal.world import World

if TYPE_CHECKING:
    from tests.emulators.modal.container import Container
    from tests.emulators.modal.volumes import Mount

STATUS = api_pb2.GenericResult.GenericStatus


@dataclass
class End:
    """How a sandbox ends. ``killed``: its command did not end by itself."""

    status: str
    message: str = ""
    exit_code: int | None = None
    killed: bool = False
    grace_s: float = 0.0  # between SIGTERM and SIGKILL
    visible_s: float = 0.0  # how long after ``asked_at`` the result comes at the earliest
    asked_at: float = field(default_factory=time.monotonic)

    @property
    def words(self) -> str:
        """Return the status as messages have it: ``terminated``, ``success``, ``idle timeout`` were seen."""
        return self.status.lower().replace("_", " ")

    @property
    def result(self) -> api_pb2.GenericResult:
        """Return the result of the API. Of most ends, the exit code is unset."""
        value = STATUS.Value(f"GENERIC_STATUS_{self.status}")
        return api_pb2.GenericResult(status=value, exception=self.message, exitcode=self.exit_code or 0)


class Sandbox:
    """One sandbox. ``version`` is 1 with a GPU, else 2."""

    container: Container | None = None
    mounts: list[Mount]

    def __init__(self, world: World, app: App, definition: Any, version: int) -> None:
        self._world = world
        self.app, self.definition, self.version = app, definition, version
        self.id = ids.object_id("sb") if version == 1 else ids.sortable_id("sb")
        self.name = definition.name
        self.plan = world.settings.plan(self.name or self.id)
        self.tags: dict[str, str] = {}
        self.env: dict[str, str] = {}
        self.mounts = []
        self.task_id = "" if version == 1 else ids.sortable_id("ta") + "V"
        self.created_at = world.sandboxes.next_time()
        self._listed_at = time.monotonic() + world.settings.list_lag_s
        self.queued_at, self.started_at, self.ended_at = self.created_at, 0.0, 0.0
        self.asked: End | None = None
        self.end: End | None = None
        self._visible_at = float("inf")
        self.changes = Changes()
        by_line, ring = world.settings.log_entries == "line", world.settings.ring_bytes
        self.outputs = {
            source: Output(ring, by_line, lambda text, source=source: self.log(source, text))  # type: ignore[misc]
            for source in (STDOUT, STDERR)
        }

    @property
    def is_over(self) -> bool:
        """Return whether everybody can see the end. Until then the sandbox is running, and has its name."""
        return self.end is not None and time.monotonic() >= self._visible_at and not self.is_held("result")

    @property
    def is_listed(self) -> bool:
        return time.monotonic() >= self._listed_at and not self.is_held("list")

    @property
    def result(self) -> api_pb2.GenericResult | None:
        return self.end.result if self.end is not None and self.is_over else None

    @property
    def metadata(self) -> api_pb2.SandboxHandleMetadata:
        return api_pb2.SandboxHandleMetadata(app_id=self.app.id, result=self.result)

    @property
    def forgotten_end(self) -> End | None:
        """Return the end if the worker does not know the sandbox any more."""
        forgets_at = self.ended_at + self._world.settings.router_keeps_s
        return self.end if self.is_over and time.time() >= forgets_at else None

    def matches(self, pattern: str) -> bool:
        return fnmatchcase(self.name, pattern) or fnmatchcase(self.id, pattern)

    def is_held(self, phase: str) -> bool:
        """Return whether the test holds the sandbox in a phase."""
        released = any(self.matches(pattern) and one == phase for pattern, one in self._world.released)
        return phase in self.plan.hold and not released

    def log(self, source: int, text: str) -> None:
        lag = self._world.settings.log_lag_s if self.plan.log_lag_s is None else self.plan.log_lag_s
        self._world.logs.of(self.app.id).add(self.id, self.task_id, source, text, lag)

    def say(self, text: str) -> None:
        """Write a system line into the App's logs."""
        self.log(SYSTEM, f"{text}\n")

    def ask(self, end: End) -> None:
        """End the sandbox; the first who asks says how."""
        if self.asked is None and self.end is None:
            self.asked = end
            self.changes.notify()

    def terminate(self) -> None:
        """What SandboxTerminate does. The end is seen a while later."""
        settings = self._world.settings
        self.ask(
            End("TERMINATED", killed=True, grace_s=settings.kill_after_s, visible_s=settings.terminate_s)
        )

    def over(self, end: End) -> None:
        self.end, self.ended_at = end, time.time()
        self._visible_at = time.monotonic() + self._world.settings.result_lag_s
        self.changes.notify()
        if self._world.settings.result_lag_s:
            loop = asyncio.get_running_loop()
            loop.call_later(self._world.settings.result_lag_s + 0.001, self.changes.notify)

    async def wait_over(self, limit_s: float) -> None:
        """Return when the end can be seen, or after ``limit_s``."""
        until = time.monotonic() + limit_s
        while not self.is_over and (left := until - time.monotonic()) > 0:
            await self.changes.wait(left)

    def report(self) -> dict[str, Any]:
        resources = self.definition.resources
        return {
            "name": self.name,
            "app": self.app.name,
            "environment": self.app.environment,
            "version": self.version,
            "task_id": self.task_id,
            "tags": self.tags,
            "argv": list(self.definition.entrypoint_args),
            "env": sorted(self.env),
            "image": self.definition.image_id,
            "memory_mb": [resources.memory_mb, resources.memory_mb_max],
            "milli_cpu": [resources.milli_cpu, resources.milli_cpu_max],
            "gpu": [resources.gpu_config.gpu_type, resources.gpu_config.count],
            "timeout_s": self.definition.timeout_secs,
            "mounts": {one.mount_path: one.sub_path for one in self.definition.volume_mounts},
            "pid": self.container.pid if self.container and self.end is None else None,
            "started": bool(self.started_at),
            "over": self.is_over,
            "status": self.end.status if self.end else "",
            "exit_code": self.end.exit_code if self.end else None,
        }


class Sandboxes:
    """All sandboxes by id, in the order of their creation."""

    def __init__(self) -> None:
        self.known: dict[str, Sandbox] = {}
        self._last_time = 0.0

    def next_time(self) -> float:
        """Return a time of creation that no other sandbox has: pages of the list begin at one."""
        self._last_time = max(time.time(), self._last_time + 1e-5)
        return self._last_time

    def get(self, sandbox_id: str, version: int | None = None) -> Sandbox:
        sandbox = self.known.get(sandbox_id)
        if sandbox is None or (version is not None and sandbox.version != version):
            raise not_found(f"Sandbox with ID {sandbox_id} not found")
        return sandbox

    def of_task(self, task_id: str) -> Sandbox:
        found = next((one for one in self.known.values() if task_id and one.task_id == task_id), None)
        if found is None:
            raise not_found(f"Task with ID {task_id} not found")
        return found

    def of_app(self, app_id: str) -> list[Sandbox]:
        return [one for one in self.known.values() if one.app.id == app_id]

    def running(self, app: App, name: str) -> Sandbox | None:
        """Return the running sandbox with a name; both versions share the names of an App."""
        found = [one for one in self.of_app(app.id) if one.name == name and not one.is_over]
        return found[0] if found else None

    def matching(self, pattern: str) -> list[Sandbox]:
        return [one for one in self.known.values() if one.matches(pattern)]

    def plan(self, pattern: str, changes: dict[str, Any]) -> None:
        for sandbox in self.matching(pattern):
            change(sandbox.plan, changes)
            sandbox.changes.notify()

    def report(self) -> dict[str, Any]:
        return {one.id: one.report() for one in self.known.values()}
