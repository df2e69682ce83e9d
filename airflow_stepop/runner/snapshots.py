"""Checkpoints where no folder leads to the store: snapshots of a folder, at pre-signed URLs.

The child restores the last one before the step begins. The parent saves the folder beside the step when it
has changed, and once more when the step has ended otherwise than well. An object is replaced as a whole or
not at all, so whoever is killed in the middle leaves the snapshot before.

Imported only by steps that have ``checkpoint.json``.
"""

from __future__ import annotations

import errno
import os
import threading
import time

from . import protocol
from .archive import ForgedError, TooLargeError, chunks, fingerprint, pack, unpack, verify
from .failures import RefusedError
from .files import quietly, remove_tree, report
from .parts import read_table
from .phases import phase
from .threads import Progress, mib
from .urls import RETRY_LIMIT_S, fetch, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from .hashing import Buffer

SCAN_S = 0.5
SCAN_SHARE = 0.01  # of one CPU, at most, for looking
# A folder that has changed is saved once nothing has changed for a moment; one that never rests, a bit later
QUIET_S, RESTLESS_S = 0.5, 5.0
# Between two snapshots: ten times as long as the last one took, within these limits
PAUSE_FACTOR, LEAST_PAUSE_S, LONGEST_PAUSE_S = 10, 5.0, 60.0
LAST_TRIES = 5
FAREWELL_S = 2.0  # how long a step that has succeeded waits for a snapshot that nobody wants any more


class Snapshots:
    """The checkpoint folder of one step, in both processes of the runner.

    :param table: what ``checkpoint.json`` holds
    :param folder: where the folder is going to be; its name with a further ending is used as well
    """

    def __init__(self, table: dict[str, Any], folder: str) -> None:
        self.table = table
        self.folder = folder
        self.key = bytes.fromhex(table["key"])

    @classmethod
    def take(cls, inputs: str, scratch: str) -> Snapshots:
        """Take the addresses and the key out of the input folder.

        :raises RefusedError: they cannot be read
        """
        path = os.path.join(inputs, protocol.CHECKPOINT)
        try:
            found = cls(read_table(path) or {}, f"{scratch}-checkpoint")
        except (OSError, ValueError, TypeError, KeyError) as error:
            text = f"The step was not started: {protocol.CHECKPOINT} is damaged: {error}"
            raise RefusedError("infra", text, "clear the task to write it anew") from None
        quietly(os.unlink, path)  # a mounted one cannot be removed
        return found

    # -- in the child

    def restore(self) -> str:
        """Make the folder with what the last try has saved in it, and return it.

        It is there at once: until then the parent has nothing to save.

        :raises RefusedError: the snapshot cannot be read, or is not ours
        """
        draft, archive = self.folder + ".new", self.folder + ".got"
        try:
            os.mkdir(draft, 0o700)
            for source in self.table["get"]:
                if fetch(source["url"], archive):
                    self._unpack(archive, draft, source["uri"])
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

    def _unpack(self, archive: str, draft: str, uri: str) -> None:
        size = os.path.getsize(archive)
        try:
            verify(archive, self.key)
            count = unpack(archive, draft)
        except ForgedError as error:
            raise RefusedError(
                "infra",
                f"The step was not started: its checkpoint {uri} was refused: {error}",
                "somebody changed it, or this is another [stepop] signing_key (or [core] fernet_key) than it "
                "was saved with: set that key again; or delete the object, and the step begins anew",
            ) from None
        report(f"checkpoint restored: {_count(count)}, {mib(size)}")

    # -- in the parent

    def start(self) -> None:
        """Begin to save the folder when it changes; called once the parent has forked."""
        import signal

        self._saver = _Saver(self)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # they are the main thread's
        self._saver.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def finish(self, is_wanted: bool) -> None:
        """Save what the step has left, if that is wanted; remove the folder."""
        self._saver.finish(is_wanted)
        quietly(os.unlink, self.folder + ".state")
        for name in (self.folder, self.folder + ".new"):
            if os.path.exists(name):
                remove_tree(name)
        for ending in (".got", ".tar"):
            quietly(os.unlink, self.folder + ending)


class _Saver(threading.Thread):
    """Looks at the folder from time to time, and saves it."""

    def __init__(self, snapshots: Snapshots) -> None:
        super().__init__(daemon=True)
        self.table = snapshots.table
        self.folder = snapshots.folder
        self.key = snapshots.key
        self._over = threading.Event()
        self._is_wanted = True
        self._saved = ""  # fingerprint of what is in the store; or of what cannot be
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
        """Return the fingerprint and the size of the folder, if it is not what is saved."""
        try:
            if not self._saved:
                with open(self.folder + ".state") as stream:
                    self._saved = stream.read()
            found = fingerprint(self.folder)
        except OSError:  # not there yet, or the step has removed it
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
        """Write a snapshot; return whether it was written, ``None`` when the folder changed meanwhile."""
        began, archive = time.monotonic(), self.folder + ".tar"
        try:
            packed = self._pack(found, archive)
            if packed is not None:
                self._put(archive, *packed, retry_limit_s)
        except TooLargeError:
            self._saved = found  # until it changes
            self._say(f"it has more than the {mib(self.table['most_bytes'])} that can be kept")
            return False
        except Exception as error:  # a snapshot that fails must not be the last one
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
        phase(f"checkpoint saved: {mib(packed[0])} in {took_s:.1f} s")
        return True

    def _pack(self, found: str, archive: str) -> tuple[int, str] | None:
        """Write the archive; return its size and its MD5, or nothing if the folder is not as it was found."""
        problem: OSError | None = None
        packed = None
        try:
            packed = pack(self.folder, archive, self.key, self.table["most_bytes"], self._leave_out)
        except OSError as error:  # perhaps a file is gone, or became shorter
            problem = error
        try:
            is_same = fingerprint(self.folder)[0] == found
        except OSError:
            is_same = False
        if not is_same:
            if self._changed_at and time.monotonic() - self._changed_at > LONGEST_PAUSE_S:
                self._say("files change all the time, and those of a snapshot must belong together")
            return None
        if problem is not None:
            raise problem
        return packed

    def _put(self, archive: str, size: int, md5: str, retry_limit_s: float) -> None:
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
        """The step is over, and there is no other time. Only what it has left running can still write."""
        for _ in range(LAST_TRIES):
            found = self._scan()
            if found is None:
                return
            is_saved = self._save(found[0], RETRY_LIMIT_S)
            if is_saved:
                report(f"checkpoint saved for the next try: {mib(found[1])}")
            if is_saved is not None:
                return
            time.sleep(SCAN_S)
        self._say("something that the step has left behind changes it all the time")

    def _say(self, problem: str) -> None:
        """Write a line about a snapshot that failed, once for as long as the trouble lasts."""
        if self._is_wanted and (self._over.is_set() or problem.partition(":")[0] != self._trouble):
            report(f"the checkpoint could not be saved, and the last one that was stays: {problem}")
        self._trouble = problem.partition(":")[0]

    def _leave_out(self, name: str) -> None:
        if name not in self._left_out:
            report(f"left out of the checkpoint: {name} is no file, and no link to one of the folder")
        self._left_out.add(name)


def _count(count: int) -> str:
    return f"{count} file{'s' if count != 1 else ''}"
