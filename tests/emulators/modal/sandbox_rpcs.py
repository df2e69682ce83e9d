"""RPCs of sandboxes. V1 (with a GPU) and V2 have RPCs of their own; the list of V2 has both."""

from __future__ import annotations

import asyncio
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.errors import already_exists, conflict, invalid, not_found
from tests.emulators.modal.lifecycle import begin
from tests.emulators.modal.sandboxes import Sandbox
from tests.emulators.modal.validation import check_definition, check_env, check_name, check_proxy
from tests.emulators.modal.world import World

MOST_WAIT_S = 55.0


class SandboxRpcs:
    """Create, find, list, wait, terminate, tags."""

    def __init__(self, world: World) -> None:
        self._world, self._sandboxes = world, world.sandboxes
        self._lives: set[asyncio.Task[None]] = set()

    async def sandbox_create(self, request: Any, call: Any) -> Any:
        """V1: all values of the environment are Secrets, by id."""
        env: dict[str, str] = {}
        for secret_id in request.definition.secret_ids:
            env |= self._world.secrets.get(secret_id).values
        sandbox = self._create(request, 1, env)
        return api_pb2.SandboxCreateResponse(sandbox_id=sandbox.id, metadata=sandbox.metadata)

    async def sandbox_create_v2(self, request: Any, call: Any) -> Any:
        """V2: named Secrets by id, and values inline; in their order, the last one wins."""
        if request.definition.resources.gpu_config.gpu_type:
            raise invalid("GPUs are not supported by V2 Sandboxes")
        env: dict[str, str] = {}
        inline: dict[str, str] = {}
        for source in request.secret_sources:
            found = (
                self._world.secrets.get(source.secret_id).values if source.secret_id else source.env.contents
            )
            env |= dict(found)
            inline |= dict(source.env.contents)
        check_env(inline, strict=True)
        sandbox = self._create(request, 2, env)
        return api_pb2.SandboxCreateV2Response(
            sandbox_id=sandbox.id,
            task_id=sandbox.task_id,
            metadata=sandbox.metadata,
            command_router_access=self._access(sandbox),
        )

    def _create(self, request: Any, version: int, env: dict[str, str]) -> Sandbox:
        definition, settings = request.definition, self._world.settings
        app = self._world.apps.get(request.app_id)
        check_env(env)
        check_definition(definition, settings)
        check_proxy(definition, settings)
        image = self._world.images.get(definition.image_id)
        if image.result is None or image.result.status != api_pb2.GenericResult.GENERIC_STATUS_SUCCESS:
            raise conflict(f"Image {image.id} is not built")
        if definition.name and self._sandboxes.running(app, definition.name):
            raise already_exists(f"Sandbox with name '{definition.name}' already exists in App '{app.name}'")
        sandbox = Sandbox(self._world, app, definition, version)
        sandbox.env = env
        sandbox.tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        life = begin(self._world, sandbox)
        self._sandboxes.known[sandbox.id] = sandbox
        self._lives.add(life)
        life.add_done_callback(self._lives.discard)
        return sandbox

    async def sandbox_get_from_name(self, request: Any, call: Any) -> Any:
        return self._from_name(request, 1)

    async def sandbox_get_from_name_v2(self, request: Any, call: Any) -> Any:
        return self._from_name(request, 2)

    def _from_name(self, request: Any, version: int) -> Any:
        environment = self._world.accounts.environment(request.environment_name)
        app = self._world.apps.named(request.app_name, environment)
        found = (
            [one for one in self._sandboxes.of_app(app.id) if one.name == request.sandbox_name] if app else []
        )
        running = [one for one in found if not one.is_over and one.version == version]
        ended = [one for one in found if one.is_over and self._is_found_after_exit(one)]
        if not running and not (request.include_terminated and ended):
            raise not_found(
                f"Sandbox with name '{request.sandbox_name}' not found in App '{request.app_name}'"
            )
        sandbox = (running or ended)[-1]
        return api_pb2.SandboxGetFromNameResponse(sandbox_id=sandbox.id, metadata=sandbox.metadata)

    def _is_found_after_exit(self, sandbox: Sandbox) -> bool:
        return sandbox.version == 2 or self._world.settings.v1_found_after_exit

    async def sandbox_list(self, request: Any, call: Any) -> Any:
        return self._list(request, {1})

    async def sandbox_list_v2(self, request: Any, call: Any) -> Any:
        return self._list(request, {1, 2})

    def _list(self, request: Any, versions: set[int]) -> Any:
        """Return a page, newest first. The next page begins before the last one's time of creation."""
        app_id = request.app_id
        environment = self._world.accounts.environment(request.environment_name)
        if app_id:
            self._world.apps.get(app_id)
        elif not request.environment_name:
            raise invalid("app_id is required")
        before = request.before_timestamp or float("inf")
        tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        found = [
            one
            for one in reversed(self._sandboxes.known.values())
            if one.version in versions
            and one.created_at < before
            and one.is_listed
            and (one.app.id == app_id if app_id else one.app.environment == environment)
            and (request.include_finished or not one.is_over)
            and tags.items() <= one.tags.items()
        ]
        infos = [self._info(one) for one in found[: self._world.settings.page_size]]
        return api_pb2.SandboxListResponse(sandboxes=infos)

    def _info(self, sandbox: Sandbox) -> Any:
        gpu = sandbox.definition.resources.gpu_config
        task = api_pb2.TaskInfo(
            id=sandbox.task_id,
            enqueued_at=sandbox.queued_at,
            started_at=sandbox.started_at,
            finished_at=sandbox.ended_at if sandbox.is_over else 0.0,
            result=sandbox.result,
            gpu_type=gpu.gpu_type,
            sandbox_id=sandbox.id,
        )
        return api_pb2.SandboxInfo(
            id=sandbox.id,
            created_at=sandbox.created_at,
            task_info=task,
            app_id=sandbox.app.id,
            tags=self._tags(sandbox) if self._world.settings.lists_tags else [],
            name=sandbox.name,
            image_id=sandbox.definition.image_id,
            timeout_secs=sandbox.definition.timeout_secs,
            metadata=sandbox.metadata,
        )

    async def sandbox_wait(self, request: Any, call: Any) -> Any:
        return await self._wait(self._sandboxes.get(request.sandbox_id, 1), request.timeout)

    async def sandbox_wait_v2(self, request: Any, call: Any) -> Any:
        return await self._wait(self._sandboxes.get(request.sandbox_id, 2), request.timeout)

    async def _wait(self, sandbox: Sandbox, limit_s: float) -> Any:
        await sandbox.wait_over(min(limit_s, MOST_WAIT_S))
        return api_pb2.SandboxWaitResponse(result=sandbox.result, metadata=sandbox.metadata)

    async def sandbox_terminate(self, request: Any, call: Any) -> Any:
        return self._terminate(self._sandboxes.get(request.sandbox_id, 1))

    async def sandbox_terminate_v2(self, request: Any, call: Any) -> Any:
        return self._terminate(self._sandboxes.get(request.sandbox_id, 2))

    def _terminate(self, sandbox: Sandbox) -> Any:
        """Answer at once; the sandbox ends later. One that has ended keeps its result."""
        existing = sandbox.result
        sandbox.terminate()
        return api_pb2.SandboxTerminateResponse(existing_result=existing)

    async def sandbox_get_task_id(self, request: Any, call: Any) -> Any:
        return self._task_id(self._sandboxes.get(request.sandbox_id, 1))

    async def sandbox_get_task_id_v2(self, request: Any, call: Any) -> Any:
        return self._task_id(self._sandboxes.get(request.sandbox_id, 2))

    def _task_id(self, sandbox: Sandbox) -> Any:
        """Without a task the answer is empty; with ``task_result`` the sandbox ended before it had one."""
        result = sandbox.result if not sandbox.started_at else None
        return api_pb2.SandboxGetTaskIdResponse(task_id=sandbox.task_id or None, task_result=result)

    async def sandbox_tags_get(self, request: Any, call: Any) -> Any:
        return api_pb2.SandboxTagsGetResponse(tags=self._tags(self._sandboxes.get(request.sandbox_id)))

    def _tags(self, sandbox: Sandbox) -> list[Any]:
        return [api_pb2.SandboxTag(tag_name=name, tag_value=value) for name, value in sandbox.tags.items()]

    sandbox_tags_get_v2 = sandbox_tags_get

    async def sandbox_tags_set(self, request: Any, call: Any) -> Any:
        self._sandboxes.get(request.sandbox_id).tags = {tag.tag_name: tag.tag_value for tag in request.tags}
        return Empty()

    sandbox_tags_set_v2 = sandbox_tags_set

    async def sandbox_set_name(self, request: Any, call: Any) -> Any:
        """Name a running V2 sandbox that has no name."""
        sandbox = self._sandboxes.get(request.sandbox_id, 2)
        check_name(request.name, "Sandbox")
        if sandbox.is_over or (sandbox.name and sandbox.name != request.name):
            raise conflict(f"Sandbox {sandbox.id} has a name already, or runs no more")
        holder = self._sandboxes.running(sandbox.app, request.name)
        if holder not in (None, sandbox):
            raise already_exists(f"Sandbox name '{request.name}' is already in use")
        sandbox.name = request.name
        return api_pb2.SandboxSetNameResponse()

    async def sandbox_get_command_router_access(self, request: Any, call: Any) -> Any:
        if request.sandbox_id:
            sandbox = self._sandboxes.get(request.sandbox_id, 2)
        else:
            sandbox = self._sandboxes.of_task(request.task_id)
        access = self._granted(sandbox)
        return api_pb2.SandboxGetCommandRouterAccessResponse(jwt=access.jwt, url=access.url)

    async def task_get_command_router_access(self, request: Any, call: Any) -> Any:
        access = self._granted(self._sandboxes.of_task(request.task_id))
        return api_pb2.TaskGetCommandRouterAccessResponse(jwt=access.jwt, url=access.url)

    def _granted(self, sandbox: Sandbox) -> Any:
        """Refuse a sandbox whose worker has forgotten it; the text was seen in first-hand reports."""
        if end := sandbox.forgotten_end:
            raise conflict(f"Task has already finished with status {end.words}")
        return self._access(sandbox)

    def _access(self, sandbox: Sandbox) -> Any:
        jwt = ids.token(self._world.settings.router_token_s, task=sandbox.task_id)
        return api_pb2.CommandRouterAccess(url=self._world.grpc, jwt=jwt)
