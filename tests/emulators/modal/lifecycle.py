"""The life of one sandbox, in a task of the event loop.

Queue (V1 waits for a GPU), start (Volumes, container), the command, its end, commit of the Volumes, result.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.emulators.modal import ids
from tests.emulators.modal.container import Container, Spec
from tests.emulators.modal.images import Config
from tests.emulators.modal.log_store import STDERR, STDOUT
from tests.emulators.modal.sandboxes import End, Sandbox
from tests.emulators.modal.volumes import DIRECTORY, Changed, Entry, Mount, normal
from tests.emulators.modal.world import World

TICK_S = 60.0  # whoever changes something notifies; this is for what was forgotten
LOOK_AT_MEMORY_S = 0.05
SLEEP = ["sleep", "172800"]  # [src] what a sandbox without a command runs
BLOCKED = 2  # NetworkAccess.BLOCKED


class EndedError(Exception):
    """The sandbox ends now; the argument is its ``End``."""


class Lifecycle:
    """Takes one sandbox through its phases."""

    def __init__(self, world: World, sandbox: Sandbox) -> None:
        self._world, self._sandbox = world, sandbox
        self._settings, self._plan = world.settings, sandbox.plan
        self._folder = Path(world.folder, "sandboxes", sandbox.id[-12:])
        self._commits = asyncio.Lock()
        self._readers: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """The body of the task. An error of the emulator itself ends the sandbox and is printed."""
        try:
            await self._live()
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            traceback.print_exc(file=sys.stderr)
            if self._sandbox.container is not None:
                await self._sandbox.container.stop(0.0)
            self._sandbox.over(End("INTERNAL_FAILURE", f"the emulator failed: {error!r}"))
        finally:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _live(self) -> None:
        end: End
        try:
            await self._queue()
            await self._start()
            end = await self._command()
        except EndedError as ended:
            end = ended.args[0]
        await self._finish(end)

    async def _queue(self) -> None:
        """A V1 sandbox gets its task when there is a GPU. Without capacity that never happens."""
        if self._sandbox.version == 1:
            wait = self._settings.queue_s if self._plan.queue_s is None else self._plan.queue_s
            await self._pause(wait, lambda: self._plan.no_capacity or self._sandbox.is_held("queue"))
            self._sandbox.task_id = ids.object_id("ta")
            self._sandbox.changes.notify()

    async def _start(self) -> None:
        sandbox = self._sandbox
        await self._pause(self._plan.start_s, lambda: sandbox.is_held("start"))
        if self._plan.fail:
            sandbox.say(self._plan.message or "Runner failed to start the container")
            raise EndedError(End(self._plan.fail, self._plan.message))
        if self._plan.run:
            await self._lay_out()
            container = Container(self._spec(), self._sync)
            await container.start()
            sandbox.container = container
            self._readers = [
                asyncio.create_task(self._read(STDOUT, container.process.stdout)),
                asyncio.create_task(self._read(STDERR, container.process.stderr)),
            ]
        sandbox.started_at = time.time()
        sandbox.changes.notify()

    async def _lay_out(self) -> None:
        """Make the folders of the mounts. [doc] A path that a Volume does not have is made in it."""
        for mount in self._sandbox.mounts:
            if mount.sub_path and mount.sub_path not in mount.volume.entries:
                mount.volume.put(mount.sub_path, Entry(DIRECTORY))
            await asyncio.to_thread(
                mount.lay_out, self._world.volumes, list(mount.volume.below(mount.sub_path))
            )

    def _spec(self) -> Spec:
        definition = self._sandbox.definition
        image: Config = self._world.images.get(definition.image_id).config
        command = list(definition.entrypoint_args) or image.cmd
        own = {
            "MODAL_TASK_ID": self._sandbox.task_id,
            "MODAL_IMAGE_ID": definition.image_id,
            "MODAL_REGION": (list(definition.scheduler_placement.regions) or ["us-east-1"])[0],
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_AWS",
        }
        buckets = [self._bucket(one.mount_path, one.read_only) for one in definition.cloud_bucket_mounts]
        return Spec(
            folder=self._folder,
            argv=[*image.entrypoint, *command] or SLEEP,
            env={**image.env, **self._settings.container_env, **self._sandbox.env, **own},
            python=image.python or self._world.python,
            mounts=[(str(one.folder), one.path, one.read_only) for one in self._sandbox.mounts] + buckets,
            workdir=definition.workdir or image.workdir,
            private_tmp=self._settings.private_tmp,
            shared=self._settings.shared,
            network=definition.network_access.network_access_type != BLOCKED,
        )

    def _bucket(self, path: str, read_only: bool) -> tuple[str, str, bool]:
        """A mounted bucket is an empty folder here."""
        folder = self._folder / "buckets" / path.strip("/").replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        return str(folder), path, read_only

    async def _read(self, source: int, stream: asyncio.StreamReader | None) -> None:
        while stream is not None and (data := await stream.read(1 << 16)):
            self._sandbox.outputs[source].write(data)

    async def _command(self) -> End:
        """Wait for the command, and for all that may end it earlier."""
        started = time.monotonic()
        ended, commits = self._wait_for_end(), asyncio.ensure_future(self._commit_in_background())
        try:
            while not ended.done():
                self._look()
                limit, status = min((limit, status) for status, limit in self._limits().items())
                if (left := started + limit - time.monotonic()) <= 0:
                    raise EndedError(End(status, self._plan.message, killed=True))
                await self._either(ended, left)
        finally:
            ended.cancel()
            commits.cancel()
        return ended.result()

    def _limits(self) -> dict[str, float]:
        """Return after how many seconds the service ends a command, and with which status."""
        definition, second = self._sandbox.definition, self._settings.second_s
        limits = {"TIMEOUT": (definition.timeout_secs + self._settings.timeout_late_s) * second}
        if definition.idle_timeout_secs:  # [doc] a busy command counts as idle
            limits["IDLE_TIMEOUT"] = definition.idle_timeout_secs * second
        if self._plan.end:
            limits[self._plan.end] = min(limits.get(self._plan.end, float("inf")), self._plan.end_after_s)
        return limits

    def _wait_for_end(self) -> asyncio.Task[End]:
        return asyncio.ensure_future(self._container_end() if self._plan.run else self._simulated_end())

    async def _simulated_end(self) -> End:
        await asyncio.sleep(self._plan.run_s)
        return by_exit_code(self._plan.exit_code)

    async def _container_end(self) -> End:
        container = self._sandbox.container
        assert container is not None
        await container.process.wait()
        if reason := container.init_failure():
            self._sandbox.say(f"Container failed to start: {reason}")
            return End("INIT_FAILURE", reason)
        return by_exit_code(container.exit_code() or 0)

    async def _either(self, ended: asyncio.Task[End], left_s: float) -> None:
        """Wait until the command ends, something changes, or ``left_s`` is over. Look at the memory."""
        limit = self._sandbox.definition.resources.memory_mb_max << 20
        container = self._sandbox.container
        if limit and container is not None:
            left_s = min(left_s, LOOK_AT_MEMORY_S)
            if container.memory_bytes() > limit:
                raise EndedError(End("KERNEL_OOM_KILL", "Container ran out of memory", killed=True))
        changed = asyncio.ensure_future(self._sandbox.changes.wait(max(0.001, min(left_s, TICK_S))))
        await asyncio.wait([ended, changed], return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()

    async def _pause(self, wait_s: float, held: Callable[[], bool]) -> None:
        """Stay for a time, and as long as the test holds the sandbox there."""
        until = time.monotonic() + wait_s
        while True:
            self._look()
            left = until - time.monotonic()
            if left <= 0 and not held():
                return
            await self._sandbox.changes.wait(TICK_S if left <= 0 else left)

    def _look(self) -> None:
        if self._sandbox.asked is not None:
            raise EndedError(self._sandbox.asked)

    async def _finish(self, end: End) -> None:
        sandbox = self._sandbox
        if sandbox.container is not None:
            if end.killed:
                await sandbox.container.stop(end.grace_s)
            await asyncio.wait(self._readers)
            sandbox.container.close()
        for output in sandbox.outputs.values():
            output.close()
        while sandbox.is_held("end"):
            await sandbox.changes.wait(TICK_S)
        found = await self._changes(end)
        await asyncio.sleep(max(0.0, end.asked_at + end.visible_s - time.monotonic()))
        is_late = bool(found) and (self._commit_lag_s() > 0 or sandbox.is_held("commit"))
        if not is_late:
            commit(found)
        sandbox.over(end)
        if is_late:
            await asyncio.sleep(self._commit_lag_s())
            while sandbox.is_held("commit"):
                await sandbox.changes.wait(TICK_S)
            commit(found)

    async def _changes(self, end: End) -> list[Changed]:
        """Read what the sandbox wrote. After a kill that may be lost."""
        planned = self._plan.commit_after_kill
        keeps = self._settings.commit_after_kill if planned is None else planned
        if not self._sandbox.started_at or (end.killed and not keeps):
            return []
        async with self._commits:
            writable = [one for one in self._sandbox.mounts if not one.read_only]
            return [await asyncio.to_thread(one.changed, self._world.volumes) for one in writable]

    def _commit_lag_s(self) -> float:
        return self._settings.commit_lag_s if self._plan.commit_lag_s is None else self._plan.commit_lag_s

    async def _sync(self, paths: list[str]) -> None:
        """What ``sync PATH`` in the sandbox does: when it returns, the files are in the Volume."""
        async with self._commits:
            for mount in self._sandbox.mounts:
                if mount.path in paths:
                    changed = await asyncio.to_thread(mount.changed, self._world.volumes)
                    changed.commit()

    async def _commit_in_background(self) -> None:
        """Commit now and then what was written, finished or not."""
        while pause_s := self._settings.background_commit_s:
            await asyncio.sleep(pause_s)
            writable = [one.path for one in self._sandbox.mounts if not one.read_only]
            await asyncio.shield(self._sync(writable))  # what was read is also committed


def commit(found: list[Changed]) -> None:
    for one in found:
        one.commit()


def by_exit_code(code: int) -> End:
    return End("FAILURE", exit_code=code) if code else End("SUCCESS", exit_code=0)


def mounts_of(world: World, sandbox: Sandbox) -> list[Mount]:
    """Return the mounts that a definition asks for."""
    folder = Path(world.folder, "sandboxes", sandbox.id[-12:], "volumes")
    return [
        Mount(
            volume=world.volumes.get(one.volume_id),
            path=one.mount_path.rstrip("/"),
            sub_path=normal(one.sub_path),
            folder=folder / str(number),
            read_only=one.read_only,
        )
        for number, one in enumerate(sandbox.definition.volume_mounts)
    ]


def begin(world: World, sandbox: Sandbox) -> asyncio.Task[None]:
    """Start the life of a sandbox."""
    sandbox.mounts = mounts_of(world, sandbox)
    return asyncio.create_task(Lifecycle(world, sandbox).run())
