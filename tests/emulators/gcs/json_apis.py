"""The APIs in JSON: buckets, tokens, the metadata server, and the credentials of service accounts.

Sources: https://docs.cloud.google.com/storage/docs/json_api/v1/buckets,
https://docs.cloud.google.com/compute/docs/metadata/overview and
https://docs.cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from tests.emulators.gcs.accounts import Account, Caller
from tests.emulators.gcs.errors import ApiError
from tests.emulators.gcs.request import Answer, Request
from tests.emulators.gcs.world import World

METADATA = "/computeMetadata/v1"
CREDENTIALS = re.compile(r"/v1/projects/-/serviceAccounts/(?P<email>[^/:]+):(?P<verb>\w+)")
BUCKET = re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)(?P<rest>/iam/testPermissions)?")
LONGEST_TOKEN_S = 3600


class JsonApis:
    """Answers requests in JSON."""

    def __init__(self, world: World) -> None:
        self.world = world

    def operation_of(self, request: Request) -> str | None:
        """Return the name of an operation; ``None``: the request is one of the XML API."""
        path = unquote(request.raw_path)
        if path == "/token":
            return "token"
        if path == "/" or path.startswith(METADATA):
            return "metadata"
        if found := CREDENTIALS.fullmatch(path):
            return found["verb"]
        if found := BUCKET.fullmatch(path):
            return "testPermissions" if found["rest"] else "bucket"
        return None

    def answer(self, request: Request, operation: str) -> Answer:
        if operation == "token":
            form = dict(parse_qsl(request.body.decode()))
            return _json(self.world.accounts.exchange(form))
        if operation == "metadata":
            return self._metadata(request)
        if operation in ("signBlob", "generateAccessToken"):
            return _json(self._credentials(request, operation))
        if operation in ("bucket", "testPermissions"):
            return _json(self._bucket(request, operation))
        raise ApiError(404, "NOT_FOUND", "Method not found.")

    # -- metadata server

    def _metadata(self, request: Request) -> Answer:
        account = self.world.metadata
        if account is None:
            raise ApiError(404, "NOT_FOUND", "This machine is none of Google's.")
        if request.header("Metadata-Flavor") != "Google":
            raise ApiError(403, "PERMISSION_DENIED", "Missing required header: Metadata-Flavor")
        path = request.raw_path.removeprefix(METADATA).strip("/")
        headers = {"Metadata-Flavor": "Google"}
        if path == "project/project-id":
            return Answer(body=account.project.encode(), headers=headers, content_type="application/text")
        if path == "universe/universe-domain":
            return Answer(body=b"googleapis.com", headers=headers, content_type="application/text")
        if path.endswith("/token"):
            scopes = parse_qs(urlsplit(request.target).query).get("scopes", [""])[0]
            caller = Caller(account, frozenset(scopes.split(",")) if scopes else Caller(account).scopes)
            token, seconds = self.world.accounts.issue(caller)
            found: Any = {"access_token": token, "expires_in": int(seconds), "token_type": "Bearer"}
        elif path.startswith("instance/service-accounts/"):
            found = {"aliases": ["default"], "email": account.email, "scopes": list(Caller(account).scopes)}
        else:
            found = {}
        return _json(found, headers)

    # -- IAM Service Account Credentials

    def _credentials(self, request: Request, operation: str) -> dict[str, Any]:
        caller = self.world.accounts.caller_of(request.header("Authorization"))
        found = CREDENTIALS.fullmatch(unquote(request.raw_path))
        email = found["email"] if found else ""
        body = json.loads(request.body or b"{}")
        permission = "signBlob" if operation == "signBlob" else "getAccessToken"
        chain = [name.rpartition("/")[2] for name in body.get("delegates") or []]
        account = self._may_act_as(caller.account, [*chain, email], f"iam.serviceAccounts.{permission}")
        if operation == "signBlob":
            data = base64.b64decode(body["payload"])
            signature = account.managed_key.sign(data, padding.PKCS1v15(), hashes.SHA256())
            return {"keyId": "managed-1", "signedBlob": base64.b64encode(signature).decode()}
        seconds = float(str(body.get("lifetime", "3600s")).rstrip("s"))
        if seconds > LONGEST_TOKEN_S:
            text = "The access token lifetime cannot exceed 3600s."
            raise ApiError(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", text)
        seconds = min(seconds, self.world.accounts.token_s)
        token, _ = self.world.accounts.issue(Caller(account, frozenset(body.get("scope", ()))), seconds)
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        return {"accessToken": token, "expireTime": end.strftime("%Y-%m-%dT%H:%M:%SZ")}

    def _may_act_as(self, caller: Account | None, chain: list[str], permission: str) -> Account:
        """Return the last account of the chain. Each must have granted the role to the one before it."""
        before = caller
        for email in chain:
            account = self.world.accounts.find(email)
            may = before is not None and account is not None and before.email in account.token_creators
            if not may or (self.world.refuses_to_sign and permission.endswith("signBlob")):
                text = f"Permission '{permission}' denied on resource (or it may not exist)."
                raise ApiError(403, "PERMISSION_DENIED", text)
            before = account
        if before is None:
            raise ApiError(401, "UNAUTHENTICATED", "Request is missing required authentication credential.")
        return before

    # -- buckets

    def _bucket(self, request: Request, operation: str) -> dict[str, Any]:
        caller = self.world.accounts.caller_of(request.header("Authorization"))
        found = BUCKET.fullmatch(unquote(request.raw_path))
        bucket = self.world.buckets.find(found["bucket"] if found else "")
        allowed = caller.account.permissions if caller.account else set()
        if operation == "testPermissions":
            asked = parse_qs(urlsplit(request.target).query).get("permissions", [])
            kept = [permission for permission in asked if permission in allowed]
            return {"kind": "storage#testIamPermissionsResponse", **({"permissions": kept} if kept else {})}
        if "storage.buckets.get" not in allowed:
            text = f"{caller.name} does not have storage.buckets.get access to the Google Cloud Storage "
            text += "bucket. Permission 'storage.buckets.get' denied on resource (or it may not exist)."
            raise ApiError(403, "forbidden", text)
        return {
            "kind": "storage#bucket",
            "name": bucket.name,
            "location": bucket.location,
            "locationType": bucket.kind,
        }


def _json(found: Any, headers: dict[str, str] | None = None) -> Answer:
    return Answer(200, json.dumps(found).encode(), headers or {}, "application/json; charset=UTF-8")
