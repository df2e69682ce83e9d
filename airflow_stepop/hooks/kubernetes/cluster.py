"""The API client for one namespace of one cluster. All requests of this backend go through it.

:class:`Cluster` sends JSON through the official client, without the client's model classes: a thousand pods
would take seconds to load. :func:`api_error` classifies the errors of the API.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_stepop.hooks.common.api_errors import ApiError, Trouble, or_none
from airflow_stepop.hooks.common.messages import without_names
from airflow_stepop.hooks.kubernetes.quotas import beyond_quota

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from kubernetes.client.exceptions import ApiException

    from airflow_stepop.hooks.kubernetes.objects import Json

TIMEOUT_S = (5.0, 30.0)  # to connect, and to wait for an answer
PATHS = {
    "jobs": "/apis/batch/v1/namespaces/{}/jobs",
    "pods": "/api/v1/namespaces/{}/pods",
    "secrets": "/api/v1/namespaces/{}/secrets",
    "events": "/api/v1/namespaces/{}/events",
    "resourcequotas": "/api/v1/namespaces/{}/resourcequotas",
    "limitranges": "/api/v1/namespaces/{}/limitranges",
}
RENEWAL_PAUSE_S = 5.0  # between two reloads of the configuration after error 401; the token may be new
PAGE = 500  # limit of objects in one answer to a LIST

log = logging.getLogger(__name__)


class Cluster:
    """Reads and writes the objects of one namespace.

    :param client: an API client of the official package
    :param namespace: namespace of all objects, except in :meth:`list_everywhere`
    :param new_client: loads the configuration again and returns a client with its token; called after a 401
    """

    def __init__(
        self, client: ApiClient, namespace: str, new_client: Callable[[], ApiClient] | None = None
    ) -> None:
        self.client = client
        self.namespace = namespace
        self._new_client = new_client
        self._renewed_at = float("-inf")
        self._renewing = threading.Lock()

    @property
    def host(self) -> str:
        """The address of the API server."""
        return str(self.client.configuration.host)

    @property
    def scope(self) -> str:
        """Address of the API server and namespace, such as ``10.0.0.1:6443/steps``."""
        return f"{urlsplit(self.host).netloc}/{self.namespace}"

    def path(self, kind: str, name: str = "") -> str:
        folder = PATHS[kind].format(quote(self.namespace, safe=""))
        return f"{folder}/{quote(name, safe='')}" if name else folder

    def get_namespace(self) -> Json | None:
        """Return the namespace object; ``None`` when the namespace does not exist."""
        return self._or_nothing("GET", f"/api/v1/namespaces/{quote(self.namespace, safe='')}")

    def get(self, kind: str, name: str) -> Json | None:
        """Return an object; ``None`` when the object does not exist."""
        return self._or_nothing("GET", self.path(kind, name))

    def create(self, kind: str, body: Json) -> Json | None:
        """Create an object and return the created one; ``None`` when the name is taken."""
        return self._or_nothing("POST", self.path(kind), body, nothing=Trouble.CONFLICT)

    def patch(self, kind: str, name: str, body: Json) -> Json | None:
        """Merge ``body`` into an object and return the result; ``None`` when the object does not exist."""
        return self._or_nothing("PATCH", self.path(kind, name), body)

    def delete(self, kind: str, name: str, uid: str | None = None) -> None:
        """Delete an object and the objects that it owns. A missing object is not an error.

        :param uid: delete only the object with this uid, and not a newer one with the same name
        """
        body: Json = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._or_nothing("DELETE", self.path(kind, name), body)
        except Exception as error:
            if status_of(error) != 409:  # a newer object has this name
                raise

    def list(self, kind: str, **query: str) -> Iterator[Json]:
        """Yield the objects of a kind, filtered by ``query``, such as ``labelSelector=...``."""
        for page in self._pages(self.path(kind), query):
            yield from page["items"]

    def list_everywhere(self, kind: str, **query: str) -> Iterator[Json]:
        """Yield the objects of all namespaces; of this one if the account may not list all (403)."""
        try:
            pages = [*self._pages(PATHS[kind].replace("/namespaces/{}", ""), query)]
        except Exception as error:
            if status_of(error) != 403:
                raise
            yield from self.list(kind, **query)
        else:
            for page in pages:
                yield from page["items"]

    def snapshot(self, kind: str, **query: str) -> tuple[str, Iterator[Json]]:
        """Return the ``resourceVersion`` from which a watch can continue, and the objects of the list."""
        pages = self._pages(self.path(kind), query)
        first = next(pages)
        rest = (one for page in pages for one in page["items"])
        return first["metadata"]["resourceVersion"], chain(first["items"], rest)

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Json]:
        more: dict[str, str] = {}
        while True:
            page = self.request("GET", path, query={"limit": str(PAGE), **query, **more})
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            more = {"continue": token}

    def request(
        self, method: str, path: str, body: Json | None = None, query: Mapping[str, str] | None = None
    ) -> Json:
        """Send one request and return the JSON of its answer.

        :raises ClusterError: the API server answers with an error
        :raises Exception: the API server cannot be reached
        """
        found: Json = json.loads(self.open(method, path, body, query).data)
        return found

    def open(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        timeout_s: tuple[float, float] = TIMEOUT_S,
    ) -> Any:
        """Send one request and return urllib3's response, whose body is not read yet.

        :param timeout_s: seconds to connect, and seconds without a byte of the answer
        :raises ClusterError: the API server answers with an error
        :raises Exception: the API server cannot be reached
        """
        try:
            return self._send(self.client, method, path, body, query, timeout_s)
        except Exception as error:
            if status_of(error) != 401 or not self._renew():
                raise
        return self._send(self.client, method, path, body, query, timeout_s)

    def _renew(self) -> bool:
        """Load the configuration again, as its token may have been replaced; return whether to retry."""
        if self._new_client is None:
            return False
        with self._renewing:
            if time.monotonic() - self._renewed_at >= RENEWAL_PAUSE_S:
                self._renewed_at = time.monotonic()
                try:
                    self.client = self._new_client()
                except Exception as error:  # noqa: BLE001, RUF100 - the caller raises the server's 401
                    log.info("The configuration of %s cannot be read again: %s", self.host, error)
                    return False
        return True

    @staticmethod
    def _send(
        client: ApiClient,
        method: str,
        path: str,
        body: Json | None,
        query: Mapping[str, str] | None,
        timeout_s: tuple[float, float],
    ) -> Any:
        from kubernetes.client.exceptions import ApiException

        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            return client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json, */*", "Content-Type": kind},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout_s,
            )
        except ApiException as error:  # its text has the whole answer, with all headers
            raise ClusterError(client.configuration.host, error) from None

    def _or_nothing(
        self, method: str, path: str, body: Json | None = None, nothing: Trouble = Trouble.NOT_FOUND
    ) -> Json | None:
        return or_none(api_error, lambda: self.request(method, path, body), nothing)


class ClusterError(Exception):
    """The API server answered a request with an error.

    :param host: address of the API server
    :param answer: the exception of the official client
    """

    def __init__(self, host: str, answer: ApiException) -> None:
        self.status = int(answer.status or 0)
        self.reason = _field_of(answer, "reason")
        if self.status == 404 and self.reason != "NotFound":
            self.status = 502  # the 404 of a proxy: an API server always gives the reason
        self.message = _field_of(answer, "message") or str(answer.reason or "")
        hint = " (airflow stepop check shows the missing permissions)" if self.status == 403 else ""
        super().__init__(f"{host} answers {answer.status}: {self.message}{hint}")


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of a :class:`ClusterError`; ``None`` for any other error."""
    return error.status if isinstance(error, ClusterError) else None


# part of the API server's message about a quota -> state of the quota
QUOTAS = {
    "exceeded quota": "its quota is used up",
    "status unknown for quota": "its quota is not counted yet",
}
_KINDS = {
    400: Trouble.INVALID,
    403: Trouble.DENIED,
    404: Trouble.NOT_FOUND,
    413: Trouble.INVALID,
    422: Trouble.INVALID,
}
# parts of an answer 500 to an object that is too large to be stored: the same answer to each retry
TOO_LARGE = ("request is too large", "message larger than max")


def api_error(error: Exception) -> ApiError:
    """Classify an error of the API. 401 is OTHER: a later try reads the token again."""
    from urllib3.exceptions import HTTPError

    status, message = status_of(error), message_of(error)
    if status is None:
        is_network = isinstance(error, (OSError, HTTPError))
        return ApiError(Trouble.TRANSIENT if is_network else Trouble.OTHER, message)
    kind = _KINDS.get(status, Trouble.OTHER)
    if status in (0, 408, 409, 429) or status >= 500:
        kind = Trouble.CONFLICT if status == 409 and _is_there(error) else Trouble.TRANSIENT
    if status == 500 and any(text in without_names(message) for text in TOO_LARGE):
        kind = Trouble.INVALID
    if status == 403 and (beyond := beyond_quota(message)):
        return ApiError(Trouble.INVALID, f"it asks for more than its quota: {beyond}. {message}", str(status))
    for text, state in QUOTAS.items():
        if status == 403 and text in without_names(message):
            kind, message = Trouble.QUOTA, f"{state}: {message}"
    return ApiError(kind, message, str(status))


def _is_there(error: Exception) -> bool:
    """Return whether an error 409 means that the name is taken.

    Two requests that update the counter of a quota at the same time cause a 409, too.
    """
    return isinstance(error, ClusterError) and error.reason in ("AlreadyExists", "")


def message_of(error: Exception) -> str:
    """Return the API server's message in an error; the text of any other error."""
    return (error.message if isinstance(error, ClusterError) else "") or str(error)


def _field_of(answer: ApiException, field: str) -> str:
    try:
        return str(json.loads(answer.body)[field])
    except (TypeError, ValueError, KeyError):
        return ""
