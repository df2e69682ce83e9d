"""Cloud Storage for tests: an emulator in a thread of the test process, and connections that lead to it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.emulators.gcs.accounts import Account
from tests.emulators.gcs.server import Server
from tests.emulators.gcs.world import World


@dataclass
class Gcs:
    """An emulator with a bucket, and an account that may use the bucket."""

    world: World
    account: Account
    bucket: str = "steps"
    conn_id: str = "stepop_tests_gcs"
    signature: str = "X-Goog-"

    @property
    def endpoint(self) -> str:
        return self.world.address

    def key_file(self, account: Account | None = None) -> dict[str, Any]:
        return (account or self.account).key_file(f"{self.endpoint}/token")

    def connection(self, extra: dict[str, Any] | None = None, **changes: Any) -> str:
        """Return an Airflow connection to it, as the value of an environment variable.

        :param extra: adds to the key of the account, or replaces it; ``None`` leaves a field out. Its
            ``endpoints`` add to the addresses of the emulator
        """
        fields = {"keyfile_dict": self.key_file(), **(extra or {})}
        given = {name: value for name, value in fields.items() if value is not None}
        here = {"storage": self.endpoint, "iamcredentials": self.endpoint}
        stepop = {"endpoints": {**here, **given.pop("endpoints", {})}}
        fields = {"conn_type": "google_cloud_platform", **changes}
        return json.dumps({**fields, "extra": {**given, "stepop": stepop}})

    def through(self, url: str) -> dict[str, Any]:
        """Return the extra of a connection that leads to the server by another address."""
        return {"endpoints": {"storage": url}}

    def new_address(self) -> str:
        """Return the address of a store that nobody has used yet."""
        return f"gs://{self.conn_id}@{self.bucket}/stepop-tests/{uuid.uuid4().hex}"


@contextmanager
def gcs_emulator() -> Iterator[Gcs]:
    """Start an emulator, and stop it at the end."""
    world = World()
    server = Server(world)
    world.buckets.add("steps")
    server.start()
    try:
        yield Gcs(world, world.accounts.add("stepop"))
    finally:
        server.close()
