"""The store that Airflow and the steps can both reach, and every path name in it.

::

    parts/<week>/<sha256>    arguments and code too large for a request, by content
    results/<deployment>/<dag>/<run>/<task>/<map>/<job>/<segment>
                             results; they outlive the job that made them
    checkpoints/<deployment>/<dag>/<run>/<task>/<map>/<digest of the arguments>/...
                             what a step left for its next try

``upkeep/garbage.py`` deletes them when nothing needs them any more.

Called by the payload (parts in), the results (values out) and the life of a step (where results go).
"""

from __future__ import annotations

import os
import socket
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow_stepop.exceptions import StepConfigError, StoreError, WrongHostError
from airflow_stepop.names import slug

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# Names of files need not be UTF-8
quote = partial(urllib.parse.quote, errors="surrogateescape")
unquote = partial(urllib.parse.unquote, errors="surrogateescape")

SCHEMES = ("file",)  # s3, gs and az come with their backends


PARTS, RESULTS, CHECKPOINTS = "parts", "results", "checkpoints"
WEEK = timedelta(days=7)
_MONDAY = datetime(2024, 1, 1, tzinfo=UTC)


def part_path(sha256: str, at: float) -> str:
    """Return where a part that is submitted at ``at`` lies.

    One that is needed again in another week is stored again. So what a week holds is never made young again,
    and a week as a whole can be deleted while others submit: see decision 0004.
    """
    weeks = (datetime.fromtimestamp(at, UTC) - _MONDAY) // WEEK
    return f"{PARTS}/{(_MONDAY + weeks * WEEK):%Y-%m-%d}/{sha256}"


def result_path(labels: Mapping[str, str], job_name: str) -> str:
    """Return the folder for the results of one job: readable names first, uniqueness by the job's name."""
    return f"{_task_path(RESULTS, labels)}/{job_name}"


def checkpoint_path(labels: Mapping[str, str]) -> str:
    """Return the folder for the checkpoints of one task instance, whatever try it is in."""
    return _task_path(CHECKPOINTS, labels)


def _task_path(top: str, labels: Mapping[str, str]) -> str:
    folders = [slug(labels.get(key, ""), 60) for key in ("dag_id", "run_id", "task_id", "map_index")]
    return "/".join([of_deployment(top, labels.get("deployment", "")), *folders])


def of_deployment(top: str, deployment: str) -> str:
    """Return the folder of one Airflow deployment below ``top``: several may have one store."""
    return f"{top}/{slug(deployment, 60) if deployment else '_'}"  # no slug is an underscore


@dataclass(frozen=True)
class StoredObject:
    """What a listing tells about one object; ``modified_at`` in seconds since the epoch."""

    path: str
    size: int
    modified_at: float


class Store:
    """One object store or folder.

    Writes are atomic and create-only: an object is there whole or not at all, and never changes.

    :param url: ``file:///folder``; an absolute path is taken for one
    :raises StepConfigError: the scheme is unknown, or the path is not absolute
    """

    def __init__(self, url: str) -> None:
        if url.startswith("/"):
            url = folder_uri(Path(url))
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise StepConfigError(
                f"store {url!r}: unknown scheme {parts.scheme!r}; use a folder, such as file:///srv/stepop"
            )
        if parts.netloc or not parts.path.startswith("/"):
            raise StepConfigError(f"store {url!r} is not an absolute folder; write file:///srv/stepop")
        if parts.query or parts.fragment or url != parts.geturl():
            raise StepConfigError(
                f"store {url!r} has a character that means something else in an address; write the folder "
                f"as a path, or as {folder_uri(Path(unquote(url.partition(':')[2].removeprefix('//'))))}"
            )
        self.folder = Path(unquote(parts.path))
        self.url = folder_uri(self.folder)
        self._client: ObjectStore | None = None

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    @property
    def client(self) -> ObjectStore:
        """The obstore client, made on first use."""
        if self._client is None:
            from obstore.store import LocalStore

            try:
                self._client = LocalStore(self.folder, mkdir=True)
            except Exception as error:
                raise self._explain("opened", "", error) from error
        return self._client

    def uri(self, path: str) -> str:
        return f"{self.url}/{quote(path)}"

    def path_of(self, uri: str) -> str | None:
        """Return the path inside this store that ``uri`` means; ``None`` when it points elsewhere."""
        prefix = self.url + "/"
        path = unquote(uri.removeprefix(prefix))
        is_name = "\0" not in path and not any("\ud800" <= letter < "\udc80" for letter in path)
        is_inside = uri.startswith(prefix) and not {"", ".", ".."} & set(path.split("/"))
        return path if is_name and is_inside else None

    def put_new(self, path: str, data: bytes | memoryview) -> bool:
        """Write ``data`` unless the object is there already; return whether it was written.

        :raises StoreError: the store cannot be written
        """
        from obstore.exceptions import AlreadyExistsError

        try:
            self.client.put(path, data, mode="create")
        except AlreadyExistsError:
            return False
        except Exception as error:
            raise self._explain("written", path, error) from error
        return True

    def read(self, path: str, size: int) -> bytearray:
        """Return the object's bytes, writable.

        :raises WrongHostError: the object is not in this folder, and the folder is the default one of each
            host
        :raises StoreError: the object is gone or cannot be read
        """
        try:
            # Not blocking: whoever may write here could leave a pipe that nobody ever writes to
            with open(os.open(self.folder / path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
                there = os.fstat(file.fileno()).st_size  # first: a size that is wrong must not take memory
                data = bytearray(size if there == size else 0)
                if there != size or file.readinto(data) != size:
                    raise StoreError(f"{self.uri(path)} is not the {size} bytes that were recorded for it")
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            raise self._explain("read", path, error) from error
        return data

    def delete_folder(self, path: str) -> None:
        """Delete everything below ``path``; nothing there, or somebody who does the same, is not an error."""
        import shutil

        folder = self.folder / path
        while folder.exists():
            try:
                shutil.rmtree(folder)
            except FileNotFoundError:  # somebody else was faster with a part of it
                continue
            except OSError as error:
                raise self._explain("deleted from", path, error) from error

    def list(self, path: str) -> Iterator[str]:
        """Yield the path of every object below the folder ``path``."""
        for found in self.objects(path):
            yield found.path

    def objects(self, path: str) -> Iterator[StoredObject]:
        """Yield every object below the folder ``path``, with its size and its age.

        :raises StoreError: the store cannot be listed
        """
        import obstore

        try:
            for chunk in obstore.list(self.client, prefix=path):
                for entry in chunk:
                    yield StoredObject(entry["path"], entry["size"], entry["last_modified"].timestamp())
        except StoreError:
            raise
        except Exception as error:
            raise self._explain("listed", path, error) from error

    def _explain(self, verb: str, path: str, error: Exception) -> StoreError:
        place = self.uri(path) if path else self.url
        return StoreError(
            f"the store could not be {verb}: {place}: {error}. "
            "Check that the folder exists, has space, and that this user may write to it, "
            "or name another one in [stepop] store"
        )


def folder_uri(folder: Path) -> str:
    return "file://" + quote(str(folder))


@cache
def host_id() -> str:
    """Return a name for this host that stays the same over restarts of Airflow."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()[:8]
    except OSError:
        machine = ""
    return f"{socket.gethostname()}-{machine}" if machine else socket.gethostname()


def host_of(url: str) -> str:
    """Return this host's name when ``url`` is a folder that another one may not have."""
    return host_id() if url.startswith("file:") else ""


def airflow_folder(name: str) -> Path:
    """Return ``$AIRFLOW_HOME/stepop/<name>``."""
    from airflow.sdk.configuration import conf

    home = os.environ.get("AIRFLOW_HOME") or os.path.dirname(conf.get("core", "dags_folder"))
    return Path(home).expanduser().absolute() / "stepop" / name


def default_store() -> Store:
    """Return the store of ``[stepop] store``; without one, a folder of this host."""
    from airflow.sdk.configuration import conf

    url = conf.get("stepop", "store", fallback="")
    return Store(url) if url else Store(folder_uri(airflow_folder("store")))


def configured_stores() -> list[Store]:
    """Return every store that references may point into: ``[stepop] store`` and ``[stepop] extra_stores``."""
    from airflow.sdk.configuration import conf

    extra = conf.get("stepop", "extra_stores", fallback="")
    return [default_store(), *(Store(url.strip()) for url in extra.split(",") if url.strip())]


def configured_store(url: str | None) -> Store:
    """Return the store that a task names, which must be one of the configured ones.

    :raises StepConfigError: it is not
    """
    if not url:
        return default_store()
    wanted, known = Store(url), configured_stores()
    if wanted.url not in {store.url for store in known}:
        raise StepConfigError(
            f"store={url!r} is not configured, so nobody could read results from it; "
            f"add it to [stepop] extra_stores (configured: {', '.join(store.url for store in known)})"
        )
    return wanted


def locate(uri: str, host: str = "") -> tuple[Store, str]:
    """Return the configured store and the path that ``uri`` points to.

    :param host: the host that wrote a file of a folder store
    :raises StoreError: it points outside the configured stores
    :raises WrongHostError: it is a file that only another host has
    """
    for store in configured_stores():
        path = store.path_of(uri)
        if path is None:
            continue
        if host and host != host_id() and not (store.folder / path).exists():
            raise WrongHostError(
                f"{uri} was written on the host {host}, and this is {host_id()}; "
                "set [stepop] store to a place that every host can reach"
            )
        return store, path
    known = ", ".join(store.url for store in configured_stores())
    raise StoreError(f"refused to read {uri}: it lies outside the configured stores ({known})")
