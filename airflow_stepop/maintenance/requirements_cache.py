"""The cache of ``requirements=`` on this host: its size, and the sets that no step uses any more.

Steps of the backend ``local`` fill it; ``runner/requirements.py`` describes its files. A step records each
use in the modification time of the set's folder. ``garbage.py`` and ``airflow stepop check`` call this.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from airflow_stepop.core.units import shown_size
from airflow_stepop.exceptions import StepopError
from airflow_stepop.runner.files import remove_tree
from airflow_stepop.runner.requirements import places

_SET = re.compile(r"[0-9a-f]{32}")
_DRAFT = re.compile(r"([0-9a-f]{32})\.[0-9a-f]{8}")


@dataclass(frozen=True)
class CachedSet:
    """An installed set, or what an installation that was killed has left.

    :param used_at: time of the last use, in seconds since the epoch
    """

    path: Path
    count: int
    size: int
    used_at: float

    def delete(self) -> None:
        """Delete the set, unless a step uses it now.

        A step records its use before it imports anything. So this renames the set first, and looks again.

        :raises StepopError: the set is in use
        """
        with _locked(self.path):
            draft = self.path.with_name(f"{self.path.name[:32]}.{token_hex(4)}")
            os.rename(self.path, draft)
            if os.stat(draft).st_mtime > self.used_at:
                with suppress(OSError):  # a step has installed it anew
                    os.rename(draft, self.path)
                raise StepopError("a step has just begun to use it")
            remove_tree(str(draft))


def cached_sets() -> Iterator[CachedSet]:
    """Yield what lies in the cache of this host, for the environment of this process."""
    for place in map(Path, places()):
        with suppress(OSError):
            for path in sorted(place.iterdir()):
                if _SET.fullmatch(path.name) or _DRAFT.fullmatch(path.name):
                    with suppress(FileNotFoundError):  # it was deleted meanwhile
                        yield CachedSet(path, *measure(path), os.stat(path).st_mtime)


def describe_caches() -> list[str]:
    """Return a text for each folder with sets, such as ``installed requirements: 3 sets, 1.2 GiB in ...``."""
    sizes: dict[Path, list[int]] = {}
    for found in cached_sets():
        sizes.setdefault(found.path.parent, []).append(found.size)
    return [
        f"installed requirements: {len(every)} set{'' if len(every) == 1 else 's'}, "
        f"{shown_size(sum(every))} in {place}"
        for place, every in sizes.items()
    ]


def measure(folder: Path) -> tuple[int, int]:
    """Return the number of the files in ``folder``, and their bytes. Links count and are not followed."""
    count = size = 0
    for parent, _, names in os.walk(folder) if not folder.is_symlink() else ():
        for name in names:
            with suppress(FileNotFoundError):
                size += os.lstat(os.path.join(parent, name)).st_size
                count += 1
    return count, size


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a set, which an installation holds, too."""
    descriptor = os.open(path.with_name(f"{path.name[:32]}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StepopError("a step installs it just now") from None
    finally:
        os.close(descriptor)
