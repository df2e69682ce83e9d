"""From an address to a store, and which stores are configured: nothing is read from any other."""

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

# scheme -> the class that knows its credentials; gs and az come with their backends
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
    """Return the store at ``url``; the same one for the same address, as long as this process lives."""
    return _open(url, os.getpid())


@cache
def _open(url: str, pid: int) -> BucketStore:
    from airflow_stepop.stores.bucket import BucketStore

    module, _, name = SCHEMES[urlsplit(url).scheme].partition(":")
    return BucketStore(url, getattr(import_module(module), name))


def default_store() -> Store:
    """Return the store of ``[stepop] store``; without one, a folder of this host."""
    from airflow.sdk.configuration import conf

    url = conf.get("stepop", "store", fallback="")
    return open_store(url or folder_uri(airflow_folder("store")))


def configured_stores() -> list[Store]:
    """Return every store that references may point into: ``[stepop] store`` and ``[stepop] extra_stores``."""
    from airflow.sdk.configuration import conf

    extra = conf.get("stepop", "extra_stores", fallback="")
    return [default_store(), *(open_store(url.strip()) for url in extra.split(",") if url.strip())]


def configured_store(url: str | None) -> Store:
    """Return the store that a task names, which must be one of the configured ones.

    :raises StepConfigError: it is not
    """
    if not url:
        return default_store()
    wanted, known = open_store(url), configured_stores()
    for store in known:
        if wanted.is_same(store):
            return store
    raise StepConfigError(
        f"store={url!r} is not configured, so nobody could read results from it; "
        f"add it to [stepop] extra_stores (configured: {', '.join(map(str, known))})"
    )


def locate(uri: str, host: str = "") -> tuple[Store, str]:
    """Return the configured store and the path that ``uri`` points to.

    :param host: the host that wrote a file of a folder store
    :raises StoreError: it points outside the configured stores
    :raises WrongHostError: it is a file that only another host has
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
