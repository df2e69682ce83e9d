"""The configured stores, and the store of an address. Nothing is read from a store that is not configured.

A store is configured if ``[stepop] store`` or ``extra_stores`` names it, or the key ``stepop`` in the extra
of a connection: see :func:`use_connection`.

Called by the payload, the results, the lifecycle, the hooks, the garbage collection and the CLI.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_stepop.connections.defaults import ConnectionDefaults, read_defaults
from airflow_stepop.core.host import airflow_folder, host_id
from airflow_stepop.exceptions import StepConfigError, StoreError, WrongHostError
from airflow_stepop.stores.folder import FolderStore, folder_uri

if TYPE_CHECKING:
    from airflow_stepop.stores.base import Store
    from airflow_stepop.stores.bucket import BucketStore

# scheme -> the Access class with its credentials; az comes with its backend
SCHEMES = {"s3": "airflow_stepop.stores.s3:AwsAccess", "gs": "airflow_stepop.stores.gcs:GcsAccess"}


def open_store(url: str) -> Store:
    """Return the store at an address: ``file:///folder``, an absolute path, or a bucket, such as
    ``s3://bucket/prefix``.

    :raises StepConfigError: the address is not one of these
    """
    url = url.rstrip("/") or url
    if url.startswith("/"):
        return FolderStore(folder_uri(Path(url)))
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return FolderStore(url)
    if scheme not in SCHEMES:
        raise StepConfigError(
            f"store {url!r}: unknown scheme {scheme!r}; use a folder, such as file:///srv/stepop, "
            f"or a bucket ({', '.join(f'{name}://bucket/prefix' for name in SCHEMES)})"
        )
    return open_bucket(url)


def open_bucket(url: str) -> BucketStore:
    """Return the store at ``url``. Within a process, the same address gives the same object.

    The process id is part of the cache key, so that a forked child opens its own store.
    """
    return _open(url, os.getpid())


@cache
def _open(url: str, pid: int) -> BucketStore:
    from airflow_stepop.stores.bucket import BucketStore

    module, _, name = SCHEMES[urlsplit(url).scheme].partition(":")
    return BucketStore(url, getattr(import_module(module), name))


def default_store() -> Store:
    """Return the store of ``[stepop] store``; if that is empty, a folder below Airflow's home.

    The folder is made for this user only (mode 0700), since any process of a step may be the first to write
    to it. An existing folder keeps its mode; ``airflow stepop check`` names it.
    """
    from airflow.sdk.configuration import conf

    url = conf.get("stepop", "store", fallback="")
    if url:
        return open_store(url)
    folder = airflow_folder("store")
    with suppress(OSError):  # it exists, or its first use says why it cannot be made
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    return open_store(folder_uri(folder))


def configured_stores() -> list[Store]:
    """Return the stores of ``[stepop] store`` and ``[stepop] extra_stores``."""
    from airflow.sdk.configuration import conf

    extra = conf.get("stepop", "extra_stores", fallback="")
    return [default_store(), *(open_store(url.strip()) for url in extra.split(",") if url.strip())]


def configured_store(url: str | None, own: Store | None = None) -> Store:
    """Return the store that a task names; the default store if ``url`` is empty.

    :param own: the store of the task's own connection. That of another one is for the steps with that one
    :raises StepConfigError: ``url`` is not an address, or its store is not configured
    """
    if not url:
        return default_store()
    wanted, known = open_store(url), [*configured_stores(), *([own] if own is not None else [])]
    for store in known:
        if wanted.is_same(store):
            return store
    raise StepConfigError(
        f"store={url!r} is not configured, so tasks would refuse to read results from it; "
        f"add it to [stepop] extra_stores (configured: {', '.join(map(str, known))})"
    )


def step_store(url: str | None, scheme: str = "", own: Store | None = None) -> Store:
    """Return the store of a step: the named one, its connection's, ``[stepop] store``, or another one.

    The last one is the first of ``[stepop] extra_stores`` that its backend can use.

    :param url: the address that the task names; ``None`` or empty: none
    :param scheme: scheme of the stores that the backend's jobs can reach, ``StepHook.store_scheme``. If
        ``[stepop] store`` is not set, the first of ``[stepop] extra_stores`` with this scheme counts
    :param own: see :func:`configured_store`
    :raises StepConfigError: ``url`` is not an address, or its store is not configured
    """
    from airflow.sdk.configuration import conf

    if not url and own is not None:
        return own
    if url or not scheme or conf.get("stepop", "store", fallback=""):
        return configured_store(url, own)
    return next((one for one in configured_stores() if urlsplit(one.url).scheme == scheme), default_store())


def locate(uri: str, host: str = "", conn_id: str = "") -> tuple[Store, str]:
    """Return the configured store and the path that ``uri`` points to.

    A connection is looked up only if no store of the settings has ``uri``.

    :param host: name of the host that wrote the object, if that is a file of a folder store
    :param conn_id: the connection that names the store, if ``uri`` is of a reference that was verified
    :raises StoreError: ``uri`` points outside the configured stores
    :raises WrongHostError: ``uri`` is a file that another host wrote and this host does not have
    """
    known = configured_stores()
    found = _located(known, uri)
    if found is None:
        if conn_id:
            use_connection(conn_id)
        found = _located(_stores_in_use(uri), uri)
    if found is None:
        raise StoreError(
            f"refused to read {uri}: it lies outside the configured stores "
            f"({', '.join(map(str, [*known, *_opened.values()]))})"
        )
    store, path = found
    if host and host != host_id() and isinstance(store, FolderStore) and not (store.folder / path).exists():
        raise WrongHostError(
            f"{uri} was written on the host {host}, and this is {host_id()}; "
            "set [stepop] store to a place that every host can reach"
        )
    return store, path


def _located(stores: Iterable[Store], uri: str) -> tuple[Store, str] | None:
    for store in stores:
        if (path := store.path_of(uri)) is not None:
            return store, path
    return None


# --- stores that a connection names

_in_use: dict[str, None] = {}  # ids of the connections that this process uses for steps, the newest last
_opened: dict[str, Store] = {}  # id of a connection -> its store, as it was at the last look-up


def use_connection(conn_id: str) -> None:
    """Let this process read and write the store that a connection of its steps names.

    The connection is not looked up now. :func:`locate` looks it up when the settings do not have an address.
    """
    _in_use.pop(conn_id, None)
    _in_use[conn_id] = None


def store_of(defaults: ConnectionDefaults) -> Store | None:
    """Return the store that a connection names; ``None`` if it names none.

    :raises StepConfigError: the connection names no address of a store, or a store of the settings with other
        credentials
    """
    _opened.pop(defaults.conn_id, None)
    if defaults.store is None:
        return None
    use_connection(defaults.conn_id)
    wanted = open_store(defaults.store)
    for store in configured_stores():
        if wanted.is_same(store):
            return store
        if wanted.url == store.url:
            raise StepConfigError(
                f"store={defaults.store!r}: [stepop] store or extra_stores has this store with another "
                f"connection ({getattr(store, 'conn_id', None) or 'none'}); write the same one in both places"
            )
    return _opened.setdefault(defaults.conn_id, wanted)


def connection_of(uri: str) -> str:
    """Return the id of the connection that names the store of ``uri``; empty: the settings have it.

    Only connections that this process uses count. For a store that is not configured the answer is empty.
    """
    if _located(configured_stores(), uri) is not None:
        return ""
    _located(_stores_in_use(uri), uri)
    return next((conn_id for conn_id, store in _opened.items() if store.path_of(uri) is not None), "")


def _stores_in_use(uri: str) -> Iterator[Store]:
    """Yield the stores of the connections in use.

    :param uri: if a store that is known already has it, no connection is looked up
    """
    known = [store for store in _opened.values() if store.path_of(uri) is not None]
    if known:
        yield from known
        return
    for conn_id in [*reversed(_in_use)]:
        if (found := _looked_up(conn_id)) is not None:
            yield found


def _looked_up(conn_id: str) -> Store | None:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection: Any = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        _opened.pop(conn_id, None)
        return None
    return store_of(read_defaults(connection))
