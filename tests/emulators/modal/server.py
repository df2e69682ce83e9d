"""The wire: gRPC for the API and for the workers, HTTP for the blocks of Volumes and for the control door.

A servicer has a method for each RPC that it knows, under the RPC's name in lower case:
``SandboxGetFromNameV2`` is ``sandbox_get_from_name_v2``. All other RPCs are UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import re
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpclib import GRPCError, Status
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream
from modal_proto import api_pb2, task_command_router_pb2

from tests.emulators.modal.errors import DetailsCodec, not_emulated
from tests.emulators.modal.faults import LostAnswerError
from tests.emulators.modal.world import World

CARDINALITIES = {
    (False, False): Cardinality.UNARY_UNARY,
    (False, True): Cardinality.UNARY_STREAM,
    (True, False): Cardinality.STREAM_UNARY,
    (True, True): Cardinality.STREAM_STREAM,
}


@dataclass(frozen=True)
class Call:
    """A request's RPC and its metadata (headers)."""

    rpc: str
    metadata: Mapping[str, str]


def in_lower_case(rpc: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", rpc).lower()


class Api:
    """All RPCs of the two services, answered by the servicers."""

    def __init__(self, world: World, servicers: Iterable[object]) -> None:
        self._world = world
        self._servicers = list(servicers)
        self._answered: dict[str, Any] = {}  # by RPC and idempotency key

    def __mapping__(self) -> dict[str, Handler]:
        """Return a handler for every RPC of the vendor. A method of a servicer that is none is an error."""
        services = [
            service
            for file in (api_pb2, task_command_router_pb2)
            for service in file.DESCRIPTOR.services_by_name.values()
        ]
        rpcs = {f"/{one.full_name}/{method.name}": method for one in services for method in one.methods}
        known = {in_lower_case(method.name) for method in rpcs.values()}
        for servicer in self._servicers:
            if odd := {name for name in dir(servicer) if not name.startswith("_")} - known:
                raise ValueError(f"{type(servicer).__name__}: no RPC has the name {', '.join(odd)}")
        return {path: self._handler(method) for path, method in rpcs.items()}

    def _handler(self, method: MethodDescriptor) -> Handler:
        name = in_lower_case(method.name)
        does = next((getattr(one, name) for one in self._servicers if hasattr(one, name)), None)
        carry = self._stream if method.server_streaming else self._unary

        async def handle(stream: Stream[Any, Any]) -> None:
            call = Call(method.name, {key: str(value) for key, value in (stream.metadata or {}).items()})
            await self._guarded(stream, call, carry, does)

        cardinality = CARDINALITIES[(method.client_streaming, method.server_streaming)]
        return Handler(
            handle, cardinality, GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        )

    async def _guarded(
        self, stream: Stream[Any, Any], call: Call, carry: Callable[..., Any], does: Callable[..., Any] | None
    ) -> None:
        """Answer a request, and count how. An error of the emulator itself is printed and is UNKNOWN."""
        faults = self._world.faults
        try:
            if does is None:
                raise not_emulated(call.rpc)
            request = await stream.recv_message()
            self._world.accounts.admit(call.rpc, call.metadata)
            await faults.strike(call.rpc, after=False)
            faults.limit(call.rpc, self._world.settings.rates)
            await carry(stream, call, does, request)
        except LostAnswerError:
            faults.count(call.rpc, "LOST")
            await stream.cancel()
        except GRPCError as error:
            faults.count(call.rpc, error.status.name)
            raise
        except asyncio.CancelledError:  # the client reads no further
            faults.count(call.rpc, "CANCELLED")
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            traceback.print_exc(file=sys.stderr)
            faults.count(call.rpc, "BROKEN")
            raise GRPCError(Status.UNKNOWN, f"the emulator failed: {error!r}") from error
        else:
            faults.count(call.rpc, "OK")

    async def _unary(
        self, stream: Stream[Any, Any], call: Call, does: Callable[..., Any], request: Any
    ) -> None:
        key = f"{call.rpc} {call.metadata.get('x-idempotency-key', '')}"
        honours = self._world.settings.honours_idempotency_key
        reply = self._answered.get(key) if honours else None
        if reply is None:
            reply = await does(request, call)
        if honours:
            self._answered[key] = reply
        await self._world.faults.strike(call.rpc, after=True)
        await stream.send_message(reply)

    async def _stream(
        self, stream: Stream[Any, Any], call: Call, does: Callable[..., Any], request: Any
    ) -> None:
        replies: AsyncIterator[Any] = does(request, call)
        async for reply in replies:
            await stream.send_message(reply)
        await self._world.faults.strike(call.rpc, after=True)


async def serve(world: World, servicers: Iterable[object], host: str, port: int) -> Server:
    """Start the gRPC server."""
    server = Server([Api(world, servicers)], status_details_codec=DetailsCodec())
    await server.start(host, port)
    return server
