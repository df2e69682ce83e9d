"""Volumes (version 2): files are lists of blocks of 8 MiB, and blocks lie in a folder by their SHA-256.

A commit replaces files at once. Readers see the last committed state.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modal_proto import api_pb2

from tests.emulators.modal import ids
from tests.emulators.modal.errors import not_found
from tests.emulators.modal.world import World

BLOCK_BYTES = 8 << 20  # [src]
V2 = api_pb2.VOLUME_FS_VERSION_V2
FILE, DIRECTORY, SYMLINK = (api_pb2.FileEntry.FileType.Value(one) for one in ("FILE", "DIRECTORY", "SYMLINK"))


def normal(path: str) -> str:
    """Return a path inside a Volume without slashes around it; the root is an empty text."""
    found = posixpath.normpath("/" + path).strip("/")
    return "" if found == "." else found


@dataclass(frozen=True)
class Entry:
    """A committed file, folder (no blocks), or symbolic link (``target``)."""

    kind: int
    size: int = 0
    blocks: tuple[str, ...] = ()
    mode: int = 0o644
    target: str = ""
    mtime: float = field(default_factory=time.time)


@dataclass
class Volume:
    """One Volume."""

    name: str
    environment: str
    version: int
    id: str = field(default_factory=lambda: ids.object_id("vo"))
    created_at: float = field(default_factory=time.time)
    entries: dict[str, Entry] = field(default_factory=dict)
    commits: int = 0

    def put(self, path: str, entry: Entry) -> None:
        """Add an entry and the folders above it."""
        folder = posixpath.dirname(path)
        while folder and folder not in self.entries:
            self.entries[folder] = Entry(DIRECTORY)
            folder = posixpath.dirname(folder)
        self.entries[path] = entry

    def below(self, folder: str) -> Iterator[tuple[str, Entry]]:
        """Yield what lies below a folder, by name."""
        prefix = f"{folder}/" if folder else ""
        for path in sorted(self.entries):
            if path.startswith(prefix) and path != folder:
                yield path, self.entries[path]

    def remove(self, path: str) -> None:
        for inner in [path, *(one for one, _ in self.below(path))]:
            self.entries.pop(inner, None)


class Volumes:
    """All Volumes by id, and the blocks."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.known: dict[str, Volume] = {}
        self.folder = world.folder / "blocks"
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, volume_id: str) -> Volume:
        if volume_id not in self.known:
            raise not_found(f"Volume {volume_id} not found")
        return self.known[volume_id]

    def named(self, name: str, environment: str) -> Volume | None:
        found = [one for one in self.known.values() if (one.name, one.environment) == (name, environment)]
        return found[0] if found else None

    def add(self, name: str, environment: str, version: int) -> Volume:
        volume = Volume(name, environment, version)
        self.known[volume.id] = volume
        return volume

    def block(self, digest: str) -> Path:
        return self.folder / digest

    def has(self, digest: str) -> bool:
        return self.block(digest).exists()

    def keep(self, data: bytes) -> str:
        """Keep a block and return its digest. Zeros at its end are left out, as the client does it."""
        kept = data.rstrip(b"\0")
        digest = hashlib.sha256(kept).hexdigest()
        if not self.has(digest):
            temporary = self.block(ids.object_id("tmp"))
            temporary.write_bytes(kept)
            temporary.replace(self.block(digest))
        return digest

    def write(self, entry: Entry, target: Path) -> None:
        """Write a committed file into a file of this host."""
        with target.open("wb") as file:
            for digest in entry.blocks:
                with self.block(digest).open("rb") as block:
                    start = file.tell()
                    shutil.copyfileobj(block, file, 1 << 20)
                    file.seek(min(start + BLOCK_BYTES, entry.size))
            file.truncate(entry.size)
        target.chmod(entry.mode or 0o644)
        os.utime(target, (entry.mtime, entry.mtime))

    def report(self) -> dict[str, Any]:
        return {
            one.id: {
                "name": one.name,
                "environment": one.environment,
                "files": {path: entry.size for path, entry in one.entries.items() if entry.kind == FILE},
                "commits": one.commits,
            }
            for one in self.known.values()
        }


@dataclass
class Mount:
    """A part of a Volume in a folder of this host, which a sandbox sees at ``path``."""

    volume: Volume
    path: str
    sub_path: str
    folder: Path
    read_only: bool
    seen: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def look(self) -> dict[str, tuple[Any, ...]]:
        """Return what lies in the folder: path -> what tells a change."""
        found: dict[str, tuple[Any, ...]] = {}
        for top, folders, files in os.walk(self.folder):
            for name in [*folders, *files]:
                full = Path(top, name)
                try:
                    about = full.lstat()
                except FileNotFoundError:
                    continue
                kind = stat.S_IFMT(about.st_mode)
                path = full.relative_to(self.folder).as_posix()
                unchanged = (
                    () if stat.S_ISDIR(about.st_mode) else (about.st_size, about.st_mtime_ns, about.st_ino)
                )
                found[path] = (kind, *unchanged)
        return found

    def lay_out(self, volumes: Volumes, entries: list[tuple[str, Entry]]) -> None:
        """Write entries of the Volume into the folder. Only what differs from them is committed later."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, entry in entries:
            target = self.folder / posixpath.relpath(path, self.sub_path or ".")
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry.kind == DIRECTORY:
                target.mkdir(exist_ok=True)
            elif entry.kind == SYMLINK:
                target.symlink_to(entry.target)
            else:
                volumes.write(entry, target)
        self.seen = self.look()

    def changed(self, volumes: Volumes) -> Changed:
        """Read and keep what was written since ``lay_out`` or the last call; blocking."""
        now = self.look()
        put, removed = {}, [path for path in self.seen if path not in now]
        for path, about in now.items():
            if self.seen.get(path) == about:
                continue
            try:
                entry = self._entry(path, volumes)
            except FileNotFoundError:  # it went meanwhile
                continue
            if entry is not None:
                put[path] = entry
        self.seen = now
        return Changed(self.volume, self.sub_path, put, removed)

    def _entry(self, path: str, volumes: Volumes) -> Entry | None:
        full = self.folder / path
        about = full.lstat()
        if stat.S_ISDIR(about.st_mode):
            return Entry(DIRECTORY)
        if stat.S_ISLNK(about.st_mode):
            return Entry(SYMLINK, target=str(full.readlink()))
        if not stat.S_ISREG(about.st_mode):
            return None
        blocks, size = [], 0
        with full.open("rb") as file:
            while data := file.read(BLOCK_BYTES):
                size += len(data)
                blocks.append(volumes.keep(data))
        return Entry(FILE, size, tuple(blocks), stat.S_IMODE(about.st_mode), mtime=about.st_mtime)


@dataclass
class Changed:
    """What a sandbox wrote, ready to be committed."""

    volume: Volume
    sub_path: str
    put: dict[str, Entry]
    removed: list[str]

    def commit(self) -> None:
        """Let all readers see it, at once. Last write wins."""
        for path in self.removed:
            self.volume.remove(normal(posixpath.join(self.sub_path, path)))
        for path, entry in self.put.items():
            self.volume.put(normal(posixpath.join(self.sub_path, path)), entry)
        self.volume.commits += 1
