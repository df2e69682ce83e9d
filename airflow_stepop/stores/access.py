"""What a bucket needs of the cloud that it is in: location and credentials. ``bucket.py`` uses it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from obstore.store import ObjectStore

    from airflow_stepop.stores.base import StoredObject

Method = Literal["GET", "PUT"]


class Access(ABC):
    """Location and credentials of a bucket. One subclass per kind of store, such as ``s3.AwsAccess``."""

    largest_put_bytes: int  # most bytes of one PUT to a signed address
    create_only_headers: Mapping[str, str]  # make a PUT to an address create-only; see sign() for is_new
    lasting: str  # what to do for signatures that are valid for longer, for an error message

    def __init__(self, conn_id: str | None) -> None:
        self.conn_id = conn_id

    def put_headers(self) -> Mapping[str, str]:
        """Return the headers that a PUT to a signed address must have. By default there are none."""
        return {}

    @abstractmethod
    def client(self, bucket: str, prefix: str) -> ObjectStore:
        """Return a new obstore client for the folder ``prefix`` of the bucket."""

    def every_object(self, bucket: str, prefix: str, after: str) -> Iterator[StoredObject] | None:
        """Yield every object, also those whose names obstore refuses; ``path`` is the whole key.

        ``None``: this kind of store, or this connection, has no way to do so.

        :param after: only keys behind this one; empty: all
        """
        return None

    def sign(
        self, client: Any, method: Method, paths: Sequence[str], valid_s: int, *, is_new: bool
    ) -> Sequence[str]:
        """Return a signed URL for each object. The call blocks.

        :param client: what :meth:`client` has returned last
        :param paths: below the folder of the client
        :param valid_s: for how many seconds the URLs are valid
        :param is_new: a PUT with ``create_only_headers`` is wanted
        """
        from datetime import timedelta

        import obstore

        signed: Sequence[str] = obstore.sign(client, method, list(paths), timedelta(seconds=valid_s))
        return signed

    @abstractmethod
    def end(self) -> float | None:
        """Return when the credentials expire that sign addresses now, in seconds since the epoch.

        ``math.inf`` when they do not expire; ``None`` when they may expire at an unknown time.
        """

    @abstractmethod
    def renew(self) -> None:
        """Make the next client get credentials that last longer, if that is possible."""

    @abstractmethod
    def advice(self, answer: str) -> str:
        """Return the advice to the user for an error text of the store."""

    def has_refused_token(self, answer: str) -> bool:
        """Return whether an error text says that a token is not valid (any more); see :meth:`renew`."""
        return False
