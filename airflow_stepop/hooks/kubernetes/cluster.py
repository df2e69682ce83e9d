"""One namespace of one cluster, spoken to in JSON through the official client.

The client's own model classes are not used: reading a thousand pods into them costs seconds.
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

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from kubernetes.client.exceptions import ApiException

    from airflow_stepop.hooks.kubernetes.objects import Json

TIMEOUT_S = (5.0, 30.0)  # to connect, and for an answer
PATHS = {
    "jobs": "/apis/batch/v1/namespaces/{}/jobs",
    "pods": "/api/v1/namespaces/{}/pods",
    "secrets": "/api/v1/namespaces/{}/secrets",
    "events": "/api/v1/namespaces/{}/events",
    "resourcequotas": "/api/v1/namespaces/{}/resourcequotas",
    "limitranges": "/api/v1/namespaces/{}/limitranges",
}
RENEWAL_PAUSE_S = 5.0  # between two readings of the configuration, when the server knows its token no more
PAGE = 500  # objects that one answer to a LIST may have

log = logging.getLogger(__name__)


class Cluster:
    """A namespace, by the name of its objects.

    :param client: an API client of the official package
    :param namespace: where everything happens
    :param new_client: makes another client, with a token that was renewed meanwhile
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
        """What one status call covers."""
        return f"{urlsplit(self.host).netloc}/{self.namespace}"

    def path(self, kind: str, name: str = "") -> str:
        folder = PATHS[kind].format(quote(self.namespace, safe=""))
        return f"{folder}/{quote(name, safe='')}" if name else folder

    def get_namespace(self) -> Json | None:
        """Return the namespace itself, ``None`` when there is none of that name."""
        return self._or_nothing("GET", f"/api/v1/namespaces/{quote(self.namespace, safe='')}")

    def get(self, kind: str, name: str) -> Json | None:
        """Return an object, ``None`` when there is none of that name."""
        return self._or_nothing("GET", self.path(kind, name))

    def create(self, kind: str, body: Json) -> Json | None:
        """Create an object and return it as it is now; ``None`` when there is one of that name."""
        return self._or_nothing("POST", self.path(kind), body, nothing=Trouble.CONFLICT)

    def patch(self, kind: str, name: str, body: Json) -> Json | None:
        """Merge ``body`` into an object and return it; ``None`` when there is none of that name."""
        return self._or_nothing("PATCH", self.path(kind, name), body)

    def delete(self, kind: str, name: str, uid: str | None = None) -> None:
        """Delete an object and what it owns; none of that name, or another one, is not an error."""
        body: Json = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self._or_nothing("DELETE", self.path(kind, name), body)
        except Exception as error:
            if status_of(error) != 409:  # one of the same name that is another one
                raise

    def list(self, kind: str, **query: str) -> Iterator[Json]:
        """Yield the objects that fit, such as those with ``labelSelector=...``."""
        for page in self._pages(self.path(kind), query):
            yield from page["items"]

    def list_everywhere(self, kind: str, **query: str) -> Iterator[Json]:
        """Yield the objects that fit in every namespace; in this one where no more may be seen."""
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
        """Return the version of a list from which a watch can go on, and the objects in it."""
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

        :raises ClusterError: the API server refuses
        :raises Exception: it cannot be reached
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
        """Send one request and return the answer of urllib3, its body still to be read.

        :raises ClusterError: the API server refuses
        :raises Exception: it cannot be reached
        """
        try:
            return self._send(self.client, method, path, body, query, timeout_s)
        except Exception as error:
            if status_of(error) != 401 or not self._renew():
                raise
        return self._send(self.client, method, path, body, query, timeout_s)

    def _renew(self) -> bool:
        """Read the token again, which its owner may have replaced; return whether it can be tried."""
        if self._new_client is None:
            return False
        with self._renewing:
            if time.monotonic() - self._renewed_at >= RENEWAL_PAUSE_S:
                self._renewed_at = time.monotonic()
                try:
                    self.client = self._new_client()
                except Exception as error:  # noqa: BLE001, RUF100 - what the server said is the error to show
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
        except ApiException as error:  # whose text is all that the server has sent, headers too
            raise ClusterError(client.configuration.host, error) from None

    def _or_nothing(
        self, method: str, path: str, body: Json | None = None, nothing: Trouble = Trouble.NOT_FOUND
    ) -> Json | None:
        return or_none(api_error, lambda: self.request(method, path, body), nothing)


class ClusterError(Exception):
    """The API server answers a request with an error.

    :param host: its address
    :param answer: as the official client raises it
    """

    def __init__(self, host: str, answer: ApiException) -> None:
        self.status = int(answer.status or 0)
        self.reason = _field_of(answer, "reason")
        if self.status == 404 and self.reason != "NotFound":
            self.status = 502  # of something in between: an API server says what it has not found
        self.message = _field_of(answer, "message") or str(answer.reason or "")
        hint = " (airflow stepop check shows what Airflow may not do there)" if self.status == 403 else ""
        super().__init__(f"{host} answers {answer.status}: {self.message}{hint}")


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of an answer of the API server; ``None`` for any other error."""
    return error.status if isinstance(error, ClusterError) else None


# message of the API server about a quota -> state of that quota
QUOTAS = {
    "exceeded quota": "its quota is used up",
    "status unknown for quota": "its quota is not counted yet",
}
_KINDS = {400: Trouble.INVALID, 403: Trouble.DENIED, 404: Trouble.NOT_FOUND, 422: Trouble.INVALID}


def api_error(error: Exception) -> ApiError:
    """Return what an error of the API server means; 401 is OTHER, since a next try reads the token anew."""
    from urllib3.exceptions import HTTPError

    status, message = status_of(error), message_of(error)
    if status is None:
        is_network = isinstance(error, (OSError, HTTPError))
        return ApiError(Trouble.TRANSIENT if is_network else Trouble.OTHER, message)
    kind = _KINDS.get(status, Trouble.OTHER)
    if status in (0, 408, 409, 429) or status >= 500:
        kind = Trouble.CONFLICT if status == 409 and _is_there(error) else Trouble.TRANSIENT
    for text, state in QUOTAS.items():
        if status == 403 and text in message:
            kind, message = Trouble.QUOTA, f"{state}: {message}"
    return ApiError(kind, message, str(status))


def _is_there(error: Exception) -> bool:
    """Return whether an error 409 means that there is an object of that name; a quota's counter, which two
    requests change at once, gives the same status.
    """
    return isinstance(error, ClusterError) and error.reason in ("AlreadyExists", "")


def message_of(error: Exception) -> str:
    """Return what the API server says in an error, else the error itself."""
    return (error.message if isinstance(error, ClusterError) else "") or str(error)


def _field_of(answer: ApiException, field: str) -> str:
    try:
        return str(json.loads(answer.body)[field])
    except (TypeError, ValueError, KeyError):
        return ""
