"""The configured stores, and the store of an address. Nothing is read from a store that is not configured.

Called by the payload, the results, the lifecycle, the hooks, the garbage collection and the CLI.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_stepop.core.host import airflow_folder, host_id
from airflow_stepop.exceptions import StepConfigError, StoreError, WrongHostError
from airflow_stepop.stores.folder import FolderStore, folder_uri

if TYPE_CHECKING:
    from airflow_stepop.stores.base import Store
    from airflow_stepop.stores.bucket import BucketStore

# scheme -> the Access class with its credentials; gs and az come with their backends
SCHEMES = {"s3": "airflow_stepop.stores.s3:AwsAccess"}


def open_store(url: str) -> Store:
    """Return the store at an address: ``file:///folder``, an absolute path, or ``s3://bucket/prefix``.

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
    """Return the store of ``[stepop] store``; if that is empty, a folder below Airflow's home."""
    from airflow.sdk.configuration import conf

    url = conf.get("stepop", "store", fallback="")
    return open_store(url or folder_uri(airflow_folder("store")))


def configured_stores() -> list[Store]:
    """Return every store that references may point into: ``[stepop] store`` and ``[stepop] extra_stores``."""
    from airflow.sdk.configuration import conf

    extra = conf.get("stepop", "extra_stores", fallback="")
    return [default_store(), *(open_store(url.strip()) for url in extra.split(",") if url.strip())]


def configured_store(url: str | None) -> Store:
    """Return the store that a task names; the default store if ``url`` is empty.

    :raises StepConfigError: ``url`` is not an address, or its store is not configured
    """
    if not url:
        return default_store()
    wanted, known = open_store(url), configured_stores()
    for store in known:
        if wanted.is_same(store):
            return store
    raise StepConfigError(
        f"store={url!r} is not configured, so tasks would refuse to read results from it; "
        f"add it to [stepop] extra_stores (configured: {', '.join(map(str, known))})"
    )


def step_store(url: str | None, scheme: str = "") -> Store:
    """Return the store of a step: the named one, else ``[stepop] store``, else one that its backend can use.

    :param url: the address that the task or its connection names; ``None`` or empty: none
    :param scheme: scheme of the stores that the backend's jobs can reach, ``StepHook.store_scheme``. If
        ``[stepop] store`` is not set, the first of ``[stepop] extra_stores`` with this scheme counts
    :raises StepConfigError: ``url`` is not an address, or its store is not configured
    """
    from airflow.sdk.configuration import conf

    if url or not scheme or conf.get("stepop", "store", fallback=""):
        return configured_store(url)
    return next((one for one in configured_stores() if urlsplit(one.url).scheme == scheme), default_store())


def locate(uri: str, host: str = "") -> tuple[Store, str]:
    """Return the configured store and the path that ``uri`` points to.

    :param host: name of the host that wrote the object, if that is a file of a folder store
    :raises StoreError: ``uri`` points outside the configured stores
    :raises WrongHostError: ``uri`` is a file that another host wrote and this host does not have
    """
    known = configured_stores()
    for store in known:
        path = store.path_of(uri)
        if path is None:
            continue
        if (
            host
            and host != host_id()
            and isinstance(store, FolderStore)
            and not (store.folder / path).exists()
        ):
            raise WrongHostError(
                f"{uri} was written on the host {host}, and this is {host_id()}; "
                "set [stepop] store to a place that every host can reach"
            )
        return store, path
    raise StoreError(
        f"refused to read {uri}: it lies outside the configured stores ({', '.join(map(str, known))})"
    )
