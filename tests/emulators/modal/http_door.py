"""HTTP: the blocks of Volumes, and the control door of tests."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web
from grpclib import GRPCError, Status

from tests.emulators.modal.control import Control
from tests.emulators.modal.faults import LostAnswerError
from tests.emulators.modal.volume_rpcs import BlockDoor
from tests.emulators.modal.volumes import BLOCK_BYTES
from tests.emulators.modal.world import World

STATUSES = {Status.UNAVAILABLE: 503, Status.RESOURCE_EXHAUSTED: 429, Status.PERMISSION_DENIED: 403}
Answer = Callable[[web.Request], Awaitable[web.Response]]


class HttpDoor:
    """The HTTP server."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._control = Control(world)
        blocks = BlockDoor(world)
        app = web.Application(client_max_size=2 * BLOCK_BYTES)
        app.router.add_put("/block/{digest}", self._with_faults("BlockPut", blocks.put))
        app.router.add_get("/block/{digest}", self._with_faults("BlockGet", blocks.get))
        app.router.add_get("/_control", self._report)
        app.router.add_post("/_control", self._order)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start(self, host: str) -> str:
        """Listen, and return the address."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, 0)
        await site.start()
        return f"http://{host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def _with_faults(self, name: str, answer: Answer) -> Answer:
        """Let faults strike a request as they strike an RPC, and count the answers."""

        async def handle(request: web.Request) -> web.Response:
            faults = self._world.faults
            try:
                await faults.strike(name, after=False)
                response = await answer(request)
                await faults.strike(name, after=True)
            except LostAnswerError:
                faults.count(name, "LOST")
                assert request.transport
                request.transport.close()
                return web.Response(status=500)
            except GRPCError as error:
                faults.count(name, error.status.name)
                return web.Response(status=STATUSES.get(error.status, 500), text=error.message or "")
            faults.count(name, "OK" if response.status < 400 else str(response.status))
            return response

        return handle

    async def _report(self, request: web.Request) -> web.Response:
        return web.json_response(self._world.report())

    async def _order(self, request: web.Request) -> web.Response:
        try:
            return web.json_response(await self._control.run(json.loads(await request.read())))
        except (ValueError, TypeError, LookupError) as error:
            return web.Response(status=400, text=f"{type(error).__name__}: {error}")
