"""Apps. An App that is looked up by name stays; it holds sandboxes, their names and their logs."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.errors import not_found
from tests.emulators.modal.validation import check_name
from tests.emulators.modal.world import World

CREATE = api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING


@dataclass
class App:
    """One App of an environment."""

    name: str
    environment: str
    id: str = field(default_factory=lambda: ids.object_id("ap"))
    created_at: float = field(default_factory=time.time)
    tags: dict[str, str] = field(default_factory=dict)


class Apps:
    """All Apps by id."""

    def __init__(self) -> None:
        self.known: dict[str, App] = {}

    def get(self, app_id: str) -> App:
        if app_id not in self.known:
            raise not_found(f"App with ID {app_id} not found")
        return self.known[app_id]

    def named(self, name: str, environment: str) -> App | None:
        return next(
            (one for one in self.known.values() if (one.name, one.environment) == (name, environment)), None
        )

    def report(self) -> dict[str, Any]:
        return {one.id: {"name": one.name, "environment": one.environment} for one in self.known.values()}


class AppRpcs:
    """App lookup, tags and stop."""

    def __init__(self, world: World) -> None:
        self._world, self._apps = world, world.apps

    async def app_get_or_create(self, request: Any, call: Any) -> Any:
        environment = self._world.accounts.environment(request.environment_name)
        app = self._apps.known.get(request.app_name) or self._apps.named(request.app_name, environment)
        if app is None:
            if request.object_creation_type != CREATE:
                raise not_found(f"App '{request.app_name}' not found in environment '{environment}'")
            check_name(request.app_name, "App")
            app = App(request.app_name, environment)
            self._apps.known[app.id] = app
        metadata = api_pb2.AppHandleMetadata(
            description=app.name, app_id=app.id, environment_name=app.environment
        )
        return api_pb2.AppGetOrCreateResponse(app_id=app.id, handle_metadata=metadata)

    async def app_set_tags(self, request: Any, call: Any) -> Any:
        self._apps.get(request.app_id).tags = dict(request.tags)
        return Empty()

    async def app_get_tags(self, request: Any, call: Any) -> Any:
        return api_pb2.AppGetTagsResponse(tags=self._apps.get(request.app_id).tags)

    async def app_stop(self, request: Any, call: Any) -> Any:
        """Stop an App: its sandboxes are terminated, and its name is free."""
        app = self._apps.get(request.app_id)
        for sandbox in self._world.sandboxes.of_app(app.id):
            sandbox.terminate()
        del self._apps.known[app.id]
        return Empty()
