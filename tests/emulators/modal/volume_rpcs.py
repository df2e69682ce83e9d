"""RPCs of Volumes, and the HTTP addresses of their blocks."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.errors import already_exists, conflict, invalid, not_found
from tests.emulators.modal.validation import check_name
from tests.emulators.modal.volumes import BLOCK_BYTES, DIRECTORY, FILE, V2, Entry, Volume, normal
from tests.emulators.modal.world import World

LIST_BATCH = 100
UNNAMED = api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL
FAIL_IF_EXISTS = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS
CREATE = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING


class VolumeRpcs:
    """Volume get-or-create, files, delete."""

    def __init__(self, world: World) -> None:
        self._world, self._volumes = world, world.volumes

    async def volume_get_or_create(self, request: Any, call: Any) -> Any:
        environment = self._world.accounts.environment(request.environment_name)
        volume = self._found_or_made(request, environment)
        return api_pb2.VolumeGetOrCreateResponse(
            volume_id=volume.id, version=volume.version, metadata=self._metadata(volume)
        )

    def _found_or_made(self, request: Any, environment: str) -> Volume:
        wanted, name = request.object_creation_type, request.deployment_name
        version = request.version or api_pb2.VOLUME_FS_VERSION_V1  # [doc] the version of a new one without
        if wanted == UNNAMED:
            return self._volumes.add("", environment, version)
        found = self._volumes.named(name, environment)
        if found and wanted == FAIL_IF_EXISTS:
            raise already_exists(f"Volume '{name}' already exists in environment '{environment}'")
        if found:
            return found
        if wanted not in (CREATE, FAIL_IF_EXISTS):
            raise not_found(f"Volume '{name}' not found in environment '{environment}'")
        check_name(name, "Volume")
        return self._volumes.add(name, environment, version)

    def _metadata(self, volume: Volume) -> Any:
        return api_pb2.VolumeMetadata(
            version=volume.version,
            name=volume.name,
            creation_info=self._world.accounts.created_by(volume.created_at),
        )

    async def volume_get_by_id(self, request: Any, call: Any) -> Any:
        volume = self._volumes.get(request.volume_id)
        return api_pb2.VolumeGetByIdResponse(volume_id=volume.id, metadata=self._metadata(volume))

    async def volume_list(self, request: Any, call: Any) -> Any:
        environment = self._world.accounts.environment(request.environment_name)
        before = request.pagination.created_before or float("inf")
        found = [
            one
            for one in self._volumes.known.values()
            if one.name and one.environment == environment and one.created_at < before
        ]
        found.sort(key=lambda one: -one.created_at)
        items = [
            api_pb2.VolumeListItem(
                label=one.name, volume_id=one.id, created_at=one.created_at, metadata=self._metadata(one)
            )
            for one in found[: request.pagination.max_objects or 100]
        ]
        return api_pb2.VolumeListResponse(items=items, environment_name=environment)

    async def volume_delete(self, request: Any, call: Any) -> Any:
        self._volumes.known.pop(self._volumes.get(request.volume_id).id)
        return Empty()

    async def volume_heartbeat(self, request: Any, call: Any) -> Any:
        self._volumes.get(request.volume_id)
        return Empty()

    async def volume_put_files2(self, request: Any, call: Any) -> Any:
        """Write all files or none. A block counts only with the answer that its PUT gave."""
        volume = self._volumes.get(request.volume_id)
        entries: dict[str, Entry] = {}
        missing = []
        for number, file in enumerate(request.files):
            path = normal(file.path)
            known = volume.entries.get(path)
            if known and request.disallow_overwrite_existing_files:
                raise already_exists(f"{file.path}: already exists")
            if not path or (known and known.kind == DIRECTORY):
                raise invalid(f"{file.path}: is a directory")
            digests = [block.contents_sha256.hex() for block in file.blocks]
            missing += [
                api_pb2.VolumePutFiles2Response.MissingBlock(
                    file_index=number, block_index=index, put_url=self._put_url(digests[index])
                )
                for index, block in enumerate(file.blocks)
                if not self._is_there(digests[index], block.put_response)
            ]
            entries[path] = Entry(FILE, file.size, tuple(digests), file.mode or 0o644)
        if not missing:
            for path, entry in entries.items():
                volume.put(path, entry)
            volume.commits += bool(entries)
        return api_pb2.VolumePutFiles2Response(missing_blocks=missing)

    def _is_there(self, digest: str, put_response: bytes) -> bool:
        given = put_response.decode(errors="replace")
        return given == ids.signature(f"was put {digest}") and self._volumes.has(digest)

    def _put_url(self, digest: str) -> str:
        return f"{self._world.http}/block/{digest}?signature={ids.signature(f'put {digest}')}"

    async def volume_get_file2(self, request: Any, call: Any) -> Any:
        volume = self._volumes.get(request.volume_id)
        entry = volume.entries.get(normal(request.path))
        if entry is None:
            raise not_found(f"{request.path}: no such file")
        if entry.kind != FILE:
            raise invalid(f"{request.path}: is not a file")
        start = min(request.start, entry.size)
        end = min(entry.size, start + (request.len or entry.size))
        urls = []
        for number in range(start // BLOCK_BYTES, -(-end // BLOCK_BYTES) if end > start else 0):
            first = number * BLOCK_BYTES
            begin, stop = max(start, first) - first, min(end, first + BLOCK_BYTES) - first
            urls.append(self._get_url(entry.blocks[number], begin, stop - begin))
        return api_pb2.VolumeGetFile2Response(get_urls=urls, size=entry.size, start=start, len=end - start)

    def _get_url(self, digest: str, begin: int, length: int) -> str:
        signed = ids.signature(f"get {digest} {begin} {length}")
        return f"{self._world.http}/block/{digest}?begin={begin}&length={length}&signature={signed}"

    async def volume_list_files2(self, request: Any, call: Any) -> AsyncIterator[Any]:
        volume, path = self._volumes.get(request.volume_id), normal(request.path)
        entry = volume.entries.get(path)
        if path and entry is None:
            raise not_found(f"{request.path}: no such file or directory")
        found = [(path, entry)] if entry and entry.kind != DIRECTORY else list(volume.below(path))
        if not request.recursive:
            depth = path.count("/") + 1 if path else 0
            found = [one for one in found if one[0] == path or one[0].count("/") == depth]
        if request.HasField("max_entries"):
            found = found[: request.max_entries]
        for first in range(0, len(found), LIST_BATCH):
            entries = [
                api_pb2.FileEntry(path=name, type=one.kind, mtime=int(one.mtime), size=one.size)
                for name, one in found[first : first + LIST_BATCH]
            ]
            yield api_pb2.VolumeListFiles2Response(entries=entries)

    async def volume_remove_file2(self, request: Any, call: Any) -> Any:
        volume, path = self._volumes.get(request.volume_id), normal(request.path)
        if path not in volume.entries:
            raise not_found(f"{request.path}: no such file or directory")
        if volume.entries[path].kind == DIRECTORY and not request.recursive:
            raise conflict(f"{request.path}: is a directory")
        volume.remove(path)
        return Empty()

    async def volume_put_files(self, request: Any, call: Any) -> Any:
        volume = self._volumes.get(request.volume_id)
        kind = "2" if volume.version == V2 else "1"
        raise invalid(f"VolumePutFiles is not emulated; the Volume has version {kind}")


class BlockDoor:
    """``PUT /block/DIGEST`` and ``GET /block/DIGEST`` with the signatures that the RPCs gave out."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def put(self, request: web.Request) -> web.Response:
        digest = request.match_info["digest"]
        if request.query.get("signature") != ids.signature(f"put {digest}"):
            return web.Response(status=403, text="bad signature")
        data = await request.read()
        if len(data) > BLOCK_BYTES:
            return web.Response(status=413, text="block too big")
        if self._world.volumes.keep(data) != digest:
            return web.Response(status=400, text="the block has another digest")
        return web.Response(text=ids.signature(f"was put {digest}"))

    async def get(self, request: web.Request) -> web.Response:
        digest, query = request.match_info["digest"], request.query
        begin, length = int(query.get("begin", 0)), int(query.get("length", 0))
        if query.get("signature") != ids.signature(f"get {digest} {begin} {length}"):
            return web.Response(status=403, text="bad signature")
        data = self._world.volumes.block(digest).read_bytes()[begin : begin + length].ljust(length, b"\0")
        signed = base64.b64encode(hashlib.sha256(data).digest()).decode()
        return web.Response(body=data, headers={"Repr-Digest": f"sha-256=:{signed}:"})
