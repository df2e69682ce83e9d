"""Reading the parts of the input folder, and unpacking the code archive."""

from __future__ import annotations

import os

from . import protocol
from .failures import RefusedError
from .files import inside
from .values import SegmentError, read_checked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# hosts of pre-signed URLs sometimes answer 5xx or drop the connection
FETCH_TRIES = 5


class Parts:
    """Finds parts: a file of the input folder, or wherever ``locations.json`` says."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._locations: dict[str, str] | None = None

    def read(self, segment: dict[str, Any]) -> bytearray:
        """Return the checked bytes of a part.

        :raises RefusedError: it cannot be read, or its bytes are not those that were recorded
        """
        name = segment["name"]
        try:
            location = self._location(name)
            if location.startswith(("http://", "https://")):
                return _fetch(location, segment)
            with open(os.path.join(self.folder, location), "rb", buffering=0) as stream:
                return read_checked(stream, segment, f"part {name}")
        except SegmentError as error:
            raise RefusedError("infra", f"The step was not started: {error}", _CHANGED) from None
        except (OSError, ValueError) as error:
            raise RefusedError(
                "infra", f"The step was not started: part {name} cannot be read: {error}"
            ) from None

    def _location(self, name: str) -> str:
        if self._locations is None:
            import json

            try:
                with open(os.path.join(self.folder, protocol.LOCATIONS), "rb") as stream:
                    self._locations = json.load(stream)
            except FileNotFoundError:
                self._locations = {}
        location = self._locations.get(name)
        return inside(".", name, "part") if location is None else str(location)


_CHANGED = "somebody changed the stored input after it was written; clear the task to write it anew"


def _fetch(url: str, segment: dict[str, Any]) -> bytearray:
    import http.client
    import time
    import urllib.error
    import urllib.request

    where = url.partition("?")[0]  # what follows is a signature
    for attempt in range(FETCH_TRIES):
        try:
            with urllib.request.urlopen(url, timeout=60) as stream:  # noqa: S310 - http(s) only, see caller
                return read_checked(stream, segment, f"part {segment['name']}")
        except urllib.error.HTTPError as error:
            problem: Exception = OSError(f"HTTP {error.code} {error.reason} for {where}")
            error.close()
            if error.code < 500 and error.code != 429:
                break
        except (OSError, http.client.HTTPException) as error:
            problem = OSError(f"{getattr(error, 'reason', error)} for {where}")
        except SegmentError as error:  # a connection that was cut looks like this, too
            problem = error
        if attempt < FETCH_TRIES - 1:
            time.sleep(0.5 * 2**attempt)
    raise problem


def extract(archive: bytearray, folder: str) -> None:
    """Unpack the code archive.

    :raises RefusedError: a member would leave the folder, or is a link
    """
    import io
    import stat
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive)) as code:
        for info in code.infolist():
            inside(folder, info.filename, "member of the code archive")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise RefusedError(
                    "bad_config", f"The member of the code archive {info.filename!r} is a link"
                )
        code.extractall(folder)
        for info in code.infolist():
            if info.external_attr >> 16 & stat.S_IXUSR:  # extractall forgets it
                os.chmod(os.path.join(folder, info.filename), 0o700)
