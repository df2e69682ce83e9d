"""Secrets: named ones of an environment, and those that belong to an App or to nobody."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.errors import already_exists, conflict, not_found
from tests.emulators.modal.validation import check_env
from tests.emulators.modal.world import World

UNNAMED = (api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP, api_pb2.OBJECT_CREATION_TYPE_EPHEMERAL)
OVERWRITE = api_pb2.OBJECT_CREATION_TYPE_CREATE_OVERWRITE_IF_EXISTS
FAIL_IF_EXISTS = api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS


@dataclass
class Secret:
    """A secret; without a name it is ephemeral."""

    name: str
    environment: str
    values: dict[str, str]
    id: str = field(default_factory=lambda: ids.object_id("st"))
    created_at: float = field(default_factory=time.time)


class Secrets:
    """All secrets by id."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.known: dict[str, Secret] = {}

    def get(self, secret_id: str) -> Secret:
        if secret_id not in self.known:
            raise not_found(f"Secret with ID {secret_id} not found")
        return self.known[secret_id]

    def named(self, name: str, environment: str) -> Secret | None:
        found = [one for one in self.known.values() if (one.name, one.environment) == (name, environment)]
        return found[0] if found else None

    def add(self, name: str, environment: str, values: dict[str, str]) -> Secret:
        check_env(values)
        secret = Secret(name, environment, values)
        self.known[secret.id] = secret
        return secret

    def metadata(self, secret: Secret) -> Any:
        return api_pb2.SecretMetadata(
            name=secret.name,
            creation_info=self._world.accounts.created_by(secret.created_at),
            keys=list(secret.values),
            environment_name=secret.environment,
        )

    def report(self) -> dict[str, Any]:
        return {
            one.id: {"name": one.name, "environment": one.environment, "keys": sorted(one.values)}
            for one in self.known.values()
        }


class SecretRpcs:
    """Secret get-or-create, info, update, list, delete."""

    def __init__(self, world: World) -> None:
        self._world, self._secrets = world, world.secrets

    async def secret_get_or_create(self, request: Any, call: Any) -> Any:
        environment = self._world.accounts.environment(request.environment_name)
        secret = self._found_or_made(request, environment)
        if missing := [key for key in request.required_keys if key not in secret.values]:
            raise conflict(
                f"Secret is missing key(s): {', '.join(missing)}"
            )  # [src] of the vendor's JS client
        return api_pb2.SecretGetOrCreateResponse(secret_id=secret.id, metadata=self._secrets.metadata(secret))

    def _found_or_made(self, request: Any, environment: str) -> Secret:
        wanted, name = request.object_creation_type, request.deployment_name
        if wanted in UNNAMED:
            return self._secrets.add("", environment, dict(request.env_dict))
        found = self._secrets.named(name, environment)
        if found is None and wanted == api_pb2.OBJECT_CREATION_TYPE_UNSPECIFIED:
            raise not_found(f"Secret '{name}' not found in environment '{environment}'")
        if found is None:
            return self._secrets.add(name, environment, dict(request.env_dict))
        if wanted == FAIL_IF_EXISTS:
            raise already_exists(f"Secret '{name}' already exists in environment '{environment}'")
        if wanted == OVERWRITE:
            found.values = dict(request.env_dict)
        return found

    async def secret_get_info(self, request: Any, call: Any) -> Any:
        secret = self._secrets.get(request.secret_id)
        return api_pb2.SecretGetInfoResponse(metadata=self._secrets.metadata(secret))

    async def secret_update(self, request: Any, call: Any) -> Any:
        values = self._secrets.get(request.secret_id).values
        for update in request.updates:
            if update.HasField("value"):
                values[update.key] = update.value
            else:
                values.pop(update.key, None)
        return Empty()

    async def secret_delete(self, request: Any, call: Any) -> Any:
        self._secrets.known.pop(self._secrets.get(request.secret_id).id)
        return Empty()

    async def secret_list(self, request: Any, call: Any) -> Any:
        environment = self._world.accounts.environment(request.environment_name)
        before = request.pagination.created_before or float("inf")
        found = [
            one
            for one in self._secrets.known.values()
            if one.name and one.environment == environment and one.created_at < before
        ]
        found.sort(key=lambda one: -one.created_at)
        items = [
            api_pb2.SecretListItem(
                label=one.name,
                secret_id=one.id,
                metadata=self._secrets.metadata(one),
                created_at=one.created_at,
            )
            for one in found[: request.pagination.max_objects or 100]
        ]
        return api_pb2.SecretListResponse(items=items, environment_name=environment)
