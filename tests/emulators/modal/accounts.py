"""The workspace: tokens, environments, and RPCs about the caller."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from google.protobuf.empty_pb2 import Empty
from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.errors import already_exists, not_found, unauthenticated
from tests.emulators.modal.world import World

BUILDER = "2025.06"  # a published image builder version of the client; its images carry no client packages
# [src] RPCs that the client sends with the short-lived token of AuthTokenGet
WITH_TOKEN = {
    *("SandboxCreateV2", "SandboxWaitV2", "SandboxListV2", "SandboxTerminateV2", "SandboxGetFromNameV2"),
    *("SandboxTagsGetV2", "SandboxTagsSetV2", "SandboxGetTaskIdV2", "SandboxGetCommandRouterAccess"),
    "SandboxSetName",
}
ROUTER = {"SandboxStdioReadV2"}  # of the workers, which have tokens of their own


class Accounts:
    """Who may call, and the environments of the workspace."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.tokens = {"ak-test": "as-test"}
        self.environments = {"main": ids.object_id("en")}

    def admit(self, rpc: str, metadata: Mapping[str, str]) -> None:
        """Raise UNAUTHENTICATED without valid credentials."""
        if rpc in ROUTER:
            return
        token_id = metadata.get("x-modal-token-id", "")
        if not token_id:
            raise unauthenticated("Token missing. Could not authenticate client.")
        if self.tokens.get(token_id) != metadata.get("x-modal-token-secret"):
            raise unauthenticated("Token validation failed: the token is unknown or was revoked")
        if rpc in WITH_TOKEN:
            claims = ids.claims_of(metadata.get("x-modal-auth-token", ""))
            if claims is None or claims.get("for") != token_id:
                raise unauthenticated(f"{rpc} needs a valid x-modal-auth-token")

    def environment(self, name: str) -> str:
        """Return the name of an environment; without one, that of the default."""
        name = name or next(iter(self.environments))
        if name not in self.environments:
            raise not_found(f"Environment '{name}' not found")
        return name

    def created_by(self, at: float) -> api_pb2.CreationInfo:
        return api_pb2.CreationInfo(created_at=at, created_by="test-user")


class AccountRpcs:
    """Client, tokens, environments, workspace."""

    def __init__(self, world: World) -> None:
        self._world, self._accounts = world, world.accounts

    async def client_hello(self, request: Any, call: Any) -> Any:
        return api_pb2.ClientHelloResponse(image_builder_version=BUILDER)

    async def auth_token_get(self, request: Any, call: Any) -> Any:
        holder = call.metadata["x-modal-token-id"]
        return api_pb2.AuthTokenGetResponse(token=ids.token(self._world.settings.token_s, **{"for": holder}))

    async def token_info_get(self, request: Any, call: Any) -> Any:
        return api_pb2.TokenInfoGetResponse(
            token_id=call.metadata["x-modal-token-id"],
            workspace_name=self._world.settings.workspace,
            user_identity=api_pb2.UserIdentity(user_id="us-test", username="test-user"),
        )

    async def environment_get_or_create(self, request: Any, call: Any) -> Any:
        name, known = request.deployment_name, self._accounts.environments
        wanted = request.object_creation_type
        if name and name not in known and wanted == api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING:
            known[name] = ids.object_id("en")
        name = self._accounts.environment(name)
        settings = api_pb2.EnvironmentSettings(image_builder_version=BUILDER)
        return api_pb2.EnvironmentGetOrCreateResponse(
            environment_id=known[name], metadata=api_pb2.EnvironmentMetadata(name=name, settings=settings)
        )

    async def environment_create(self, request: Any, call: Any) -> Any:
        if request.name in self._accounts.environments:
            raise already_exists(f"Environment '{request.name}' already exists")
        self._accounts.environments[request.name] = ids.object_id("en")
        return Empty()

    async def environment_list(self, request: Any, call: Any) -> Any:
        items = [
            api_pb2.EnvironmentListItem(name=name, environment_id=found, default=number == 0)
            for number, (name, found) in enumerate(self._accounts.environments.items())
        ]
        return api_pb2.EnvironmentListResponse(items=items)

    async def workspace_name_lookup(self, request: Any, call: Any) -> Any:
        workspace = self._world.settings.workspace
        return api_pb2.WorkspaceNameLookupResponse(workspace_name=workspace, username=workspace)

    async def workspace_dashboard_url_get(self, request: Any, call: Any) -> Any:
        environment = self._accounts.environment(request.environment_name)
        workspace = self._world.settings.workspace
        return api_pb2.WorkspaceDashboardUrlResponse(url=f"https://modal.com/apps/{workspace}/{environment}")

    async def proxy_get(self, request: Any, call: Any) -> Any:
        if request.name not in self._world.settings.proxies:
            raise not_found(f"Proxy '{request.name}' not found")
        proxy = api_pb2.Proxy(name=request.name, proxy_id=f"pr-{request.name}", created_at=time.time())
        return api_pb2.ProxyGetResponse(proxy=proxy)
