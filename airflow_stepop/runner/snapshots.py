"""Saves the checkpoint folder as snapshots, for jobs that cannot reach the store's folder.

A snapshot is an object behind a pre-signed URL; or it is a file with an absolute path, in a folder that the
service copies to a bucket and brings back to a restarted job, such as ``/opt/ml/checkpoints`` of SageMaker.

1. The child restores the last snapshot before the step begins.
2. While the step runs, a thread of the parent saves the folder after each change.
3. When the step has ended without success, the parent saves the folder once more.

Both are replaced atomically: a store does so with an object, and a file is written beside and renamed. So a
runner that is killed during a save leaves the snapshot before.

Imported only by steps that have ``checkpoint.json``. Used by :mod:`.main` and :mod:`.step`.
"""

from __future__ import annotations

import errno
import os
import threading
import time

from . import protocol
from .archive import CHUNK_BYTES, ForgedError, TooLargeError, chunks, fingerprint, pack, unpack, verify
from .failures import RefusedError
from .files import quietly, read_table, remove_tree, report, write_atomic
from .phases import phase
from .sizes import shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from .hashing import Buffer
    from .wire import Checkpoint

SCAN_S = 0.5
SCAN_SHARE = 0.01  # scanning the folder takes at most this share of one CPU
# A changed folder is saved after QUIET_S without a further change, or RESTLESS_S after its first change
QUIET_S, RESTLESS_S = 0.5, 5.0
# The pause between two snapshots is ten times the duration of the last one, within these limits
PAUSE_FACTOR, LEAST_PAUSE_S, LONGEST_PAUSE_S = 10, 5.0, 60.0
LAST_TRIES = 5
LAST_SAVE_S = 240.0  # transient errors of the last save are retried for so many seconds
FAREWELL_S = 2.0  # longest wait of a step that has succeeded, for a snapshot under way to be given up


class Snapshots:
    """The checkpoint folder of one step, in both processes of the runner.

    :param table: the contents of ``checkpoint.json``
    :param folder: path of the checkpoint folder; the same path with ``.new``, ``.got``, ``.tar`` and
        ``.state`` is used, too
    """

    def __init__(self, table: Checkpoint, folder: str) -> None:
        self.table = table
        self.folder = folder
        self.key = bytes.fromhex(table["key"])
        self.keys = [self.key, *map(bytes.fromhex, table.get("earlier_keys", ()))]

    @classmethod
    def take(cls, options: Mapping[str, str], scratch: str) -> Snapshots:
        """Read the URLs and the key, and remove their file from the input folder.

        :raises RefusedError: ``checkpoint.json`` cannot be read
        """
        try:
            table: Any = read_table(options, protocol.CHECKPOINT) or {}  # the backend wrote it
            found = cls(table, f"{scratch}-checkpoint")
        except (OSError, ValueError, TypeError, KeyError) as error:
            text = f"The step was not started: {protocol.CHECKPOINT} is damaged: {error}"
            raise RefusedError("infra", text, "clear the task to write it again") from None
        quietly(
            os.unlink, os.path.join(options["in"], protocol.CHECKPOINT)
        )  # a mounted file cannot be removed
        return found

    # -- in the child

    def restore(self) -> str:
        """Make the checkpoint folder with the last snapshot in it, and return its path.

        The folder appears by an atomic rename. Until then the parent has nothing to save.

        :raises RefusedError: the snapshot cannot be read or unpacked, or its signature does not match
        """
        draft, archive = self.folder + ".new", self.folder + ".got"
        try:
            os.mkdir(draft, 0o700)
            for source in self.table["get"]:
                if self._restored(source["url"], source["uri"], archive, draft):
                    break
            quietly(os.unlink, archive)
            with open(self.folder + ".state", "w") as stream:
                stream.write(fingerprint(draft)[0])
            os.rename(draft, self.folder)
        except OSError as error:
            text = f"The step was not started: its checkpoint cannot be restored: {error}"
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            hint = "give the step disk for twice its checkpoint" if is_full else ""
            raise RefusedError("infra", text, hint) from None
        return self.folder

    def _restored(self, place: str, uri: str, archive: str, draft: str) -> bool:
        """Copy, check and unpack a snapshot; return whether it exists."""
        try:
            if not _bring(place, archive, self._allow):
                return False
            verify(archive, *self.keys)
            count = unpack(archive, draft)
        except ForgedError as error:
            raise RefusedError(
                "infra",
                f"The step was not started: its checkpoint {uri} was refused: {error}",
                "the object was changed, or it was saved with another [stepop] signing_key (or [core] "
                "fernet_key): set that key again, or delete the object to start without a checkpoint",
            ) from None
        report(f"checkpoint restored: {_count(count)}, {shown_size(os.path.getsize(archive))}")
        return True

    def _allow(self, size: int) -> None:
        """Refuse a snapshot that no job of this task has written, before it fills the disk."""
        most = self.table["most_bytes"]
        if size > most:
            raise ForgedError(f"it has {shown_size(size)}, and this task saves at most {shown_size(most)}")

    # -- in the parent

    def start(self) -> None:
        """Begin to save the folder after each change. Called in the parent, after the fork."""
        import signal

        self._saver = _Saver(self)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # for the main thread only
        self._saver.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def finish(self, is_wanted: bool) -> None:
        """Save the folder for the last time if ``is_wanted``; then remove it."""
        self._saver.finish(is_wanted)
        quietly(os.unlink, self._saver.archive)  # of a save that was killed or given up
        quietly(os.unlink, self.folder + ".state")
        for name in (self.folder, self.folder + ".new"):
            if os.path.exists(name):
                remove_tree(name)
        quietly(os.unlink, self.folder + ".got")


class _Saver(threading.Thread):
    """Scans the folder at intervals, and saves it after a change."""

    def __init__(self, snapshots: Snapshots) -> None:
        super().__init__(daemon=True)
        self.table = snapshots.table
        self.folder = snapshots.folder
        self.key = snapshots.key
        put = snapshots.table.get("put", "")
        # A file of the same file system can be renamed into its place
        self.archive = put + ".part" if os.path.isabs(put) else self.folder + ".tar"
        self._over = threading.Event()
        self._is_wanted = True
        self._saved = ""  # fingerprint of the last snapshot, or of a folder that is too large to be saved
        self._seen, self._quiet_since, self._changed_at = "", 0.0, 0.0
        self._next_at = 0.0
        self._trouble = ""
        self._left_out: set[str] = set()

    def finish(self, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._over.set()
        self.join(None if is_wanted else FAREWELL_S)

    def run(self) -> None:
        pause_s = SCAN_S
        while not self._over.wait(pause_s):
            began = time.monotonic()
            found = self._scan()
            pause_s = max(SCAN_S, (time.monotonic() - began) / SCAN_SHARE)
            if found is not None and self._is_due(found[0]):
                self._save(found[0])
        if self._is_wanted:
            self._save_last()

    def _scan(self) -> tuple[str, int] | None:
        """Return the fingerprint and the size of the folder; ``None`` if it equals the last snapshot."""
        try:
            if not self._saved:
                with open(self.folder + ".state") as stream:
                    self._saved = stream.read()
            found = fingerprint(self.folder)
        except OSError:  # the folder does not exist yet, or the step has removed it
            return None
        return found if found[0] != self._saved else None

    def _is_due(self, found: str) -> bool:
        now = time.monotonic()
        if found != self._seen:
            self._changed_at = self._changed_at or now
            self._seen, self._quiet_since = found, now
        is_quiet = now - self._quiet_since >= QUIET_S or now - self._changed_at >= RESTLESS_S
        return is_quiet and now >= self._next_at

    def _save(self, found: str, retry_limit_s: float = 0.0) -> bool | None:
        """Write a snapshot; return whether it was written. ``None``: the folder changed during the save."""
        began, archive = time.monotonic(), self.archive
        try:
            packed = self._pack(found, archive)
            if packed is not None:
                self._put(archive, *packed, retry_limit_s)
        except TooLargeError:
            self._saved = found  # do not try again until the folder changes
            self._say(f"it has more than the {shown_size(self.table['most_bytes'])} that can be kept")
            return False
        except Exception as error:  # a failed snapshot must not end the thread
            self._say(str(error) if isinstance(error, OSError) else repr(error))
            return False
        finally:
            quietly(os.unlink, archive)
            took_s = time.monotonic() - began
            pause_s = min(max(PAUSE_FACTOR * took_s, LEAST_PAUSE_S), LONGEST_PAUSE_S)
            self._next_at = time.monotonic() + pause_s
        if packed is None:
            return None
        if self._trouble:
            report("the checkpoint is saved again")
        self._saved, self._changed_at, self._trouble = found, 0.0, ""
        phase(f"checkpoint saved: {shown_size(packed[0])} in {took_s:.1f} s")
        return True

    def _pack(self, found: str, archive: str) -> tuple[int, str] | None:
        """Write the archive; return its size and MD5. ``None``: the folder changed since the scan."""
        problem: OSError | None = None
        packed = None
        try:
            os.makedirs(os.path.dirname(archive), exist_ok=True)
            packed = pack(self.folder, archive, self.key, self.table["most_bytes"], self._leave_out)
        except OSError as error:  # perhaps the step has removed or shortened a file
            problem = error
        try:
            is_same = fingerprint(self.folder)[0] == found
        except OSError:
            is_same = False
        if not is_same:
            if self._changed_at and time.monotonic() - self._changed_at > LONGEST_PAUSE_S:
                self._say("files change all the time, so no snapshot of them is consistent")
            return None
        if problem is not None:
            raise problem
        return packed

    def _put(self, archive: str, size: int, md5: str, retry_limit_s: float) -> None:
        if os.path.isabs(self.table["put"]):
            if not self._is_wanted:
                raise OSError("it is not wanted any more")
            _sync(archive)
            os.replace(archive, self.table["put"])
            if "sync" in self.table:
                from .synced import sync

                sync(self.table["sync"])
            return
        from .threads import Progress
        from .urls import replace

        progress = Progress("saving the checkpoint", size, report if self._over.is_set() else phase)

        def body() -> Iterator[Buffer]:
            for data in chunks(archive):
                if not self._is_wanted:
                    raise OSError("it is not wanted any more")
                yield data
                progress.add(len(data))
                progress.tick()

        headers = {**self.table["headers"], "Content-MD5": md5}
        replace(self.table["put"], body, size, headers, retry_limit_s)

    def _save_last(self) -> None:
        """Save the folder after the step has ended. Only leftover processes can still change it."""
        for _ in range(LAST_TRIES):
            found = self._scan()
            if found is None:
                return
            is_saved = self._save(found[0], LAST_SAVE_S)
            if is_saved:
                report(f"checkpoint saved for the next try: {shown_size(found[1])}")
            if is_saved is not None:
                return
            time.sleep(SCAN_S)
        self._say("a process that the step left behind changes files all the time")

    def _say(self, problem: str) -> None:
        """Log a snapshot that failed. The same problem is logged once until a snapshot succeeds."""
        if self._is_wanted and (self._over.is_set() or problem.partition(":")[0] != self._trouble):
            report(f"the checkpoint could not be saved, and the last saved one stays: {problem}")
        self._trouble = problem.partition(":")[0]

    def _leave_out(self, name: str) -> None:
        if name not in self._left_out:
            report(f"left out of the checkpoint: {name} is neither a file nor a link into the folder")
        self._left_out.add(name)


def _bring(place: str, path: str, allow: Callable[[int], object]) -> bool:
    """Copy a snapshot into the file ``path``; return whether the snapshot exists.

    A file is copied, too: it may lie in a mounted bucket and change between the check and the unpacking.

    :param place: pre-signed URL or absolute path
    :param allow: called with the size in bytes before anything is copied
    :raises OSError: the snapshot cannot be read
    """
    if not os.path.isabs(place):
        from .urls import fetch

        return fetch(place, path, allow)
    try:
        descriptor = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        return False
    with open(descriptor, "rb", buffering=0) as stream:
        left = os.fstat(stream.fileno()).st_size
        allow(left)
        write_atomic(path, _first(stream, left))
    return True


def _first(stream: Any, left: int) -> Iterator[Buffer]:
    """Yield the first ``left`` bytes of a file: a file that grows meanwhile fills no disk."""
    while left > 0:
        data = stream.read(min(CHUNK_BYTES, left))
        if not data:
            return
        left -= len(data)
        yield data


def _sync(path: str) -> None:
    with open(path, "rb") as stream:
        quietly(os.fsync, stream.fileno())


def _count(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
