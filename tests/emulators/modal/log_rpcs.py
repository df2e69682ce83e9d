"""RPCs that read what sandboxes print: of the App, of a V1 sandbox, and of the worker of a V2 one."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from modal_proto import api_pb2, task_command_router_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.errors import conflict, invalid, unauthenticated
from tests.emulators.modal.log_store import STDERR, STDOUT, Line, batches
from tests.emulators.modal.world import World

SECOND_NS = 1_000_000_000
CHUNK_BYTES = 64 << 10
LOOK_S = 0.05  # how often a stream looks for lines whose lag is over
MOST_BUCKETS = 20_000
FOREVER_NS = 1 << 62
STREAMS = {
    task_command_router_pb2.SANDBOX_STDIO_FILE_DESCRIPTOR_STDOUT: STDOUT,
    task_command_router_pb2.SANDBOX_STDIO_FILE_DESCRIPTOR_STDERR: STDERR,
}


def in_ns(moment: Any) -> int:
    return int(moment.seconds * SECOND_NS + moment.nanos)


class LogRpcs:
    """App logs: count, fetch, stream; and the stream of a V1 sandbox."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _lines(self, request: Any, since_ns: int, until_ns: int) -> Iterator[Line]:
        held = {one.id for one in self._world.sandboxes.of_app(request.app_id) if one.is_held("log")}
        source = getattr(request, "source", 0) or getattr(request, "file_descriptor", 0)
        for line in self._world.logs.of(request.app_id).between(since_ns, until_ns):
            if (
                line.sandbox_id not in held
                and (not request.sandbox_id or line.sandbox_id == request.sandbox_id)
                and (not request.task_id or line.task_id == request.task_id)
                and (not source or line.source == source)
                and request.search_text in line.text
            ):
                yield line

    def _range(self, request: Any) -> tuple[int, int]:
        """Return the range of a request. It begins at ``since`` and ends before ``until``."""
        self._world.apps.get(request.app_id)
        since, until = in_ns(request.since), in_ns(request.until)
        if until <= since:
            raise invalid("`since` must be before `until`")
        if until - since > self._world.settings.log_days * 86_400 * SECOND_NS + SECOND_NS:
            raise invalid(f"Time range cannot exceed {self._world.settings.log_days:g} days")
        return since, until

    async def app_count_logs(self, request: Any, call: Any) -> Any:
        """Count entries in buckets that begin at multiples of their size."""
        since, until = self._range(request)
        size = request.bucket_secs * SECOND_NS
        if not size or (until - since) // size > MOST_BUCKETS:
            raise invalid("bucket_secs is too small for the range")
        first = since // size
        buckets = [api_pb2.AppCountLogsResponse.LogBucket() for _ in range(first, (until - 1) // size + 1)]
        for number, bucket in enumerate(buckets):
            bucket.bucket_start_at.FromNanoseconds((first + number) * size)
        for line in self._lines(request, since, until):
            bucket = buckets[line.at_ns // size - first]
            name = {STDOUT: "stdout_logs", STDERR: "stderr_logs"}.get(line.source, "system_logs")
            setattr(bucket, name, getattr(bucket, name) + 1)
        return api_pb2.AppCountLogsResponse(app_id=request.app_id, buckets=buckets)

    async def app_fetch_logs(self, request: Any, call: Any) -> Any:
        """Return the entries of a range; of too many, the newest."""
        since, until = self._range(request)
        most = self._world.settings.log_limit
        if request.limit > most:
            raise invalid(f"limit cannot exceed {most}")
        found = list(self._lines(request, since, until))
        return api_pb2.AppFetchLogsResponse(batches=batches(found[-(request.limit or most) :]))

    async def app_get_logs(self, request: Any, call: Any) -> AsyncIterator[Any]:
        """Stream new entries from the last one that the client names, until ``timeout``."""
        self._world.apps.get(request.app_id)
        sent, until = entry_number(request.last_entry_id), time.monotonic() + request.timeout
        logs = self._world.logs.of(request.app_id)
        if not request.last_entry_id:
            sent = len(logs.lines)
        while True:
            found = [line for line in self._lines(request, 0, FOREVER_NS) if line.number > sent]
            for batch in batches(found):
                yield batch
            sent = max([sent, *(line.number for line in found)])
            if (left := until - time.monotonic()) <= 0:
                return
            await logs.changes.wait(min(left, LOOK_S))

    async def sandbox_get_logs(self, request: Any, call: Any) -> AsyncIterator[Any]:
        """Send one stream of a V1 sandbox as text. ``last_entry_id`` resumes it; ``eof`` is its end."""
        sandbox = self._world.sandboxes.get(request.sandbox_id, 1)
        logs = self._world.logs.of(sandbox.app.id)
        sent, until = entry_number(request.last_entry_id), time.monotonic() + request.timeout
        while True:
            is_over = sandbox.is_over
            found = [
                line
                for line in logs.lines
                if line.sandbox_id == sandbox.id
                and line.number > sent
                and request.file_descriptor in (0, line.source)
            ]
            for batch in batches(found):
                yield batch
            sent = max([sent, *(line.number for line in found)])
            if is_over:
                yield api_pb2.TaskLogsBatch(eof=True, entry_id=f"0-{sent}")
                return
            if (left := until - time.monotonic()) <= 0:
                return
            await sandbox.changes.wait(min(left, LOOK_S))


def entry_number(entry_id: str) -> int:
    """Return the number in the id of an entry; 0 without one."""
    return int(entry_id.rpartition("-")[2] or 0)


class RouterRpcs:
    """The worker of a V2 sandbox: its streams by byte offset."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def sandbox_stdio_read_v2(self, request: Any, call: Any) -> AsyncIterator[Any]:
        """Send bytes from an offset, or from the oldest that is kept, until the stream ends."""
        claims = ids.claims_of(call.metadata.get("authorization", "").removeprefix("Bearer "))
        if claims is None or claims.get("task") != request.task_id:
            raise unauthenticated("the token is not valid for this task")
        sandbox = self._world.sandboxes.of_task(request.task_id)
        if end := sandbox.forgotten_end:
            raise conflict(f"Task has already finished with status {end.words}")
        output, offset = sandbox.outputs[STREAMS[request.file_descriptor]], request.offset
        while True:
            data, begin = output.read(offset, CHUNK_BYTES)
            if data:
                yield task_command_router_pb2.SandboxStdioReadV2Response(data=data, starting_offset=begin)
                offset = begin + len(data)
            elif output.closed:
                return
            else:
                await output.changes.wait()
