"""What tests of stores need to know of a server with a bucket, of whatever kind it is."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

# For a test of the fixture bucket_server that takes long, and whose subject hardly depends on the server
seldom_on_gcs = pytest.mark.parametrize(
    "bucket_server", ["s3", pytest.param("gs", marks=pytest.mark.long)], indirect=True
)


class BucketServer(Protocol):
    """A server with a bucket: ``s3.S3Server`` or ``gcs.Gcs``."""

    bucket: str
    conn_id: str
    signature: str  # what the names of the parameters of a signed address begin with

    @property
    def endpoint(self) -> str: ...

    def connection(self, extra: dict[str, Any] | None = None, **changes: Any) -> str: ...

    def through(self, url: str) -> dict[str, Any]:
        """Return the extra of a connection that leads to the server by another address."""
        ...

    def new_address(self) -> str: ...
