"""Images. An image is the interpreter of this host; its Dockerfile gives ENTRYPOINT, CMD, ENV and WORKDIR.

The build really looks at the commands: a tag that a test made missing or private fails it. RUN and COPY do
nothing.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.changes import Changes
from tests.emulators.modal.errors import conflict, not_found
from tests.emulators.modal.world import World

SUCCESS, FAILURE = api_pb2.GenericResult.GENERIC_STATUS_SUCCESS, api_pb2.GenericResult.GENERIC_STATUS_FAILURE
REGISTRY_KEYS = (
    {"REGISTRY_USERNAME", "REGISTRY_PASSWORD"},
    {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"},
    {"AWS_ROLE_ARN", "AWS_REGION"},
    {"SERVICE_ACCOUNT_JSON"},
)


@dataclass
class Config:
    """What an image says about its containers."""

    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    python: str = ""  # another interpreter of this host than the emulator's


@dataclass
class Image:
    """One image, and the result of its build; None while it is built."""

    definition: Any
    id: str = field(default_factory=lambda: ids.object_id("im"))
    result: Any = None
    changes: Changes = field(default_factory=Changes)
    config: Config = field(default_factory=Config)
    name: str = ""


@dataclass
class RegistryImage:
    """How a test wants the images of a tag (a pattern): missing, private, broken, or with an ENTRYPOINT."""

    tag: str
    entrypoint: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    python: str = ""
    missing: bool = False
    private: bool = False  # needs a registry secret
    failure: str = ""  # the build ends with this text
    status: str = "FAILURE"  # of a build that fails: FAILURE, TERMINATED, TIMEOUT, MEMORY_MANAGER_EVICTION


class Images:
    """All images by id, published names, and what a test said about tags."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.known: dict[str, Image] = {}
        self.published: dict[str, str] = {}
        self.registry: list[RegistryImage] = []
        self._builds: set[asyncio.Task[None]] = set()

    def get(self, image_id: str) -> Image:
        if image_id not in self.known:
            raise conflict(f"Could not find image with ID {image_id}")  # [src] of the vendor's JS client
        return self.known[image_id]

    def publish(self, tag: str, *, entrypoint: list[str]) -> str:
        """Make a published image ``ENVIRONMENT/NAME:TAG`` that is built already."""
        image = Image(api_pb2.Image(), result=api_pb2.GenericResult(status=SUCCESS), name=tag)
        image.config.entrypoint = entrypoint
        self.known[image.id] = image
        self.published[tag] = image.id
        return image.id

    def get_or_create(self, definition: Any, *, force: bool) -> Image:
        """Return the image of a definition. A failed build is tried again, as is a forced one."""
        wanted = definition.SerializeToString(deterministic=True)
        for image in self.known.values():
            same = image.definition.SerializeToString(deterministic=True) == wanted
            if same and not force and (image.result is None or image.result.status == SUCCESS):
                return image
        image = Image(definition)
        self.known[image.id] = image
        build = asyncio.ensure_future(self._build(image))
        self._builds.add(build)
        build.add_done_callback(self._builds.discard)
        return image

    async def _build(self, image: Image) -> None:
        await asyncio.sleep(self._world.settings.build_s)
        image.result = self._built(image)
        image.changes.notify()

    def _built(self, image: Image) -> Any:
        bases = {one.docker_tag: self.get(one.image_id).config for one in image.definition.base_images}
        for line in image.definition.dockerfile_commands:
            word, _, rest = line.strip().partition(" ")
            if word.upper() == "FROM":
                found = self._from(rest.split()[0], bases, image)
                if isinstance(found, str):
                    return api_pb2.GenericResult(status=FAILURE, exception=found)
                image.config, broken = found
                if broken:
                    status = api_pb2.GenericResult.GenericStatus.Value(f"GENERIC_STATUS_{broken.status}")
                    return api_pb2.GenericResult(status=status, exception=broken.failure)
            else:
                apply(image.config, word.upper(), rest)
        return api_pb2.GenericResult(status=SUCCESS)

    def _from(
        self, tag: str, bases: dict[str, Config], image: Image
    ) -> tuple[Config, RegistryImage | None] | str:
        """Return the config of a base, and what is broken in it; a text where it cannot be pulled."""
        if tag in bases:
            base = bases[tag]
            return Config(
                list(base.entrypoint), list(base.cmd), dict(base.env), base.workdir, base.python
            ), None
        said = next((one for one in reversed(self.registry) if fnmatchcase(tag, one.tag)), RegistryImage(tag))
        if said.missing:
            return f"Failed to pull image '{tag}': manifest unknown"
        if said.private and not self._may_pull(image.definition.image_registry_config.secret_id):
            return f"Failed to pull image '{tag}': unauthorized: authentication required"
        config = Config(list(said.entrypoint), [], dict(said.env), said.workdir, said.python)
        return config, said if said.failure else None

    def _may_pull(self, secret_id: str) -> bool:
        secret = self._world.secrets.known.get(secret_id)
        return secret is not None and any(keys <= set(secret.values) for keys in REGISTRY_KEYS)

    def report(self) -> dict[str, Any]:
        return {
            one.id: {
                "commands": list(one.definition.dockerfile_commands),
                "status": api_pb2.GenericResult.GenericStatus.Name(one.result.status) if one.result else "",
                "entrypoint": one.config.entrypoint,
                "name": one.name,
            }
            for one in self.known.values()
        }


def apply(config: Config, word: str, rest: str) -> None:
    """Apply a Dockerfile command to a config. As in Docker, an ENTRYPOINT resets the CMD of a base."""
    if word == "ENTRYPOINT":
        config.entrypoint, config.cmd = words(rest), []
    elif word == "CMD":
        config.cmd = words(rest)
    elif word == "WORKDIR":
        config.workdir = rest.strip()
    elif word == "ENV":
        for part in shlex.split(rest):
            name, _, value = part.partition("=")
            config.env[name] = value


def words(text: str) -> list[str]:
    """Return the words of the exec form (JSON), or the shell form as Docker runs it."""
    if text.strip().startswith("["):
        return [str(one) for one in json.loads(text)]
    return ["/bin/sh", "-c", text]


class ImageRpcs:
    """Image get-or-create, join, published names; and the mounts that builds refer to."""

    def __init__(self, world: World) -> None:
        self._world, self._images = world, world.images
        self._mounts: dict[str, str] = {}

    async def image_get_or_create(self, request: Any, call: Any) -> Any:
        self._world.apps.get(request.app_id)
        image = self._images.get_or_create(request.image, force=request.force_build)
        metadata = api_pb2.ImageMetadata(image_builder_version=request.builder_version)
        return api_pb2.ImageGetOrCreateResponse(image_id=image.id, result=image.result, metadata=metadata)

    async def image_join_streaming(self, request: Any, call: Any) -> AsyncIterator[Any]:
        """Send the log of a build, and its result at the end. Without a result the client asks again."""
        image = self._images.get(request.image_id)
        if not request.last_entry_id:
            line = api_pb2.TaskLogs(
                data=f"=> building {image.id}\n",
                timestamp=time.time(),
                file_descriptor=api_pb2.FILE_DESCRIPTOR_INFO,
            )
            yield api_pb2.ImageJoinStreamingResponse(task_logs=[line], entry_id="1-0")
        until = time.monotonic() + request.timeout
        while image.result is None and time.monotonic() < until:
            await image.changes.wait(until - time.monotonic())
        if image.result is not None:
            yield api_pb2.ImageJoinStreamingResponse(result=image.result, entry_id="1-1", eof=True)

    async def image_get_by_tag(self, request: Any, call: Any) -> Any:
        if request.tag not in self._images.published:
            raise not_found(f"Image '{request.tag}' not found")
        return api_pb2.ImageGetByTagResponse(image_id=self._images.published[request.tag])

    async def image_from_id(self, request: Any, call: Any) -> Any:
        return api_pb2.ImageFromIdResponse(image_id=self._images.get(request.image_id).id)

    async def image_publish(self, request: Any, call: Any) -> Any:
        image = self._images.get(request.image_id)
        self._images.published[request.tag] = image.id
        return api_pb2.ImagePublishResponse(image_id=image.id)

    async def mount_get_or_create(self, request: Any, call: Any) -> Any:
        """Return a mount by name, such as the one with a Python for ``add_python``. It has no files here."""
        mount_id = self._mounts.setdefault(
            request.deployment_name or ids.object_id("mo"), ids.object_id("mo")
        )
        return api_pb2.MountGetOrCreateResponse(mount_id=mount_id)
