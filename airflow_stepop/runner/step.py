"""The step in the child process: its manifest, its folders, and access to its arguments and results.

:mod:`.main` makes the :class:`Step`; :mod:`.child`, :mod:`.command` and :mod:`.function` use it.
"""

from __future__ import annotations

import errno
import os
from functools import cached_property

from . import protocol
from .failures import RefusedError, StepError
from .files import modules_folder, read_table
from .phases import phase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .entries import Encoded
    from .hashing import Buffer
    from .meter import Meter
    from .parts import Parts
    from .secrets import Secrets
    from .segments import Segments
    from .snapshots import Snapshots
    from .uploads import Uploads
    from .wire import Entry, Location, Manifest, Segment

# Values inside outcome.json are stored in Airflow's database, more than once. After INLINE_BYTES in all, only
# values up to TINY_BYTES stay inside: they are not larger than a reference. After OUTCOME_VALUES_BYTES, none
INLINE_BYTES = protocol.INLINE_VALUE_BYTES
TINY_BYTES = 256

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Step:
    """One step: its manifest, and the folders it reads and writes."""

    def __init__(
        self,
        manifest: Manifest,
        folders: dict[str, str],
        scratch: str,
        meter: Meter,
        secrets: Secrets | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self.manifest = manifest
        self.scratch = scratch
        self.meter = meter
        self.modules = modules_folder(scratch)
        self.out = folders["out"]
        self.folders = folders
        self.secrets = secrets
        self.snapshots = snapshots
        self.is_refused = False
        self._pid = os.getpid()
        self._inline_bytes = 0

    # Both are imported on first use: most steps are small and need neither
    @cached_property
    def parts(self) -> Parts:
        from .parts import Parts

        return Parts(self.folders)

    @cached_property
    def segments(self) -> Segments | Uploads:
        table: Any = read_table(self.folders, protocol.UPLOADS)  # the backend wrote it
        if table is not None:
            from .uploads import Uploads

            return Uploads(table)
        if not self.folders["segments"]:
            raise StepError(
                "bad_config",
                "The step ran, and its result is too large to come back without a store",
                "set [stepop] store to a bucket that Airflow and the step reach, or return less than 48 KiB",
            )
        from .segments import Segments

        return Segments(self.folders["segments"], self.manifest["job"])

    def leave_if_forked(self, error: BaseException | None = None) -> None:
        """End this process if the step's code forked it: only the original child may write the outcome."""
        if os.getpid() == self._pid:
            return
        if error is None:
            os._exit(0)
        from .exception_data import describe, exit_status, print_exception

        code, status = exit_status(error) if isinstance(error, SystemExit) else (error, 1)
        if code is not None and not isinstance(code, int):  # Python ends without a word after a number
            print_exception(describe(error))
        os._exit(status)

    def prepare(self) -> None:
        """Unpack the code, change to the scratch folder, restore the checkpoint, install the requirements.

        :raises RefusedError: one of these failed
        """
        code = self.manifest["parts"].get(protocol.CODE)
        if code is not None:
            from .parts import extract

            extract(self.parts.read({**code, "name": protocol.CODE}), self.scratch)
            phase("code extracted")
        os.chdir(self.scratch)
        os.environ[protocol.ENV_WORK] = self.scratch
        # where a step that imports Airflow finds no configuration, and leaves what Airflow writes
        os.environ.setdefault("AIRFLOW_HOME", os.path.join(self.scratch, ".airflow"))
        os.environ.setdefault(protocol.ENV_JOB, self.manifest["job"])
        os.environ.setdefault(protocol.ENV_NONCE, self.manifest["nonce"])
        if self.manifest.get("checkpoint"):
            self._open_checkpoint()
        if "requirements" in self.manifest:
            from .requirements import provide

            provide(self.manifest["requirements"], self.scratch, self.meter)

    def _open_checkpoint(self) -> None:
        if self.snapshots is not None:
            os.environ[protocol.ENV_CHECKPOINT] = self.snapshots.restore()
            phase("checkpoint restored")
            return
        folder = self.folders.get("checkpoint")
        if folder is None:
            hint = (
                "choose a backend with checkpoints: its hook must pass StepSpec.checkpoint_uri to the runner"
            )
            raise RefusedError("bad_config", "The backend has no place for the step's checkpoints", hint)
        from .ownership import NotPrivateError, take_folder

        try:
            take_folder(folder)
        except NotPrivateError as error:
            text = f"The step was not started: its checkpoint folder is not used: {error}"
            hint = "remove the folder if nobody needs it, and use a store to which only this user may write"
            raise RefusedError("bad_config", text, hint) from None
        except OSError as error:
            text = f"The step was not started: its checkpoint folder cannot be created: {error}"
            raise RefusedError("infra", text) from None
        os.environ[protocol.ENV_CHECKPOINT] = folder

    def to_entry(self, encoded: Encoded) -> Entry:
        """Return the entry of an encoded value; a large value becomes a segment.

        :raises StepError: the segment cannot be written
        """
        total = self._inline_bytes + encoded.size
        limit = protocol.INLINE_VALUE_BYTES if total <= INLINE_BYTES else TINY_BYTES
        if total > protocol.OUTCOME_VALUES_BYTES:
            limit = -1
        self._inline_bytes += encoded.size if encoded.size <= limit else 0
        with guard_disk():
            return encoded.to_entry(self._save, limit)

    def _save(self, buffers: list[Buffer], _digest: Callable[[], str], _size: int) -> Location:
        return self.segments.save(buffers)

    def finish_segments(self) -> None:
        """Complete the segments of the result: :class:`.uploads.Uploads` sends them now."""
        if "segments" in self.__dict__:
            with guard_disk():
                self.segments.finish()

    def discard_segments(self) -> None:
        """Remove the segments of a result that the outcome will not name."""
        if "segments" in self.__dict__:
            self.segments.discard()

    def read_segment(self, segment: Segment, codec: str) -> Buffer:
        """Return the checked bytes of a part; see :meth:`.parts.Parts.read`."""
        return self.parts.read(segment, codec)


class guard_disk:  # noqa: N801 - used like a function
    """Context that turns an ``OSError`` of the runner's own writes into an ``infra`` failure."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            hint = "give the step more disk, or return less" if error.errno in FULL else ""
            raise StepError(
                "infra", f"The step ran, but its result could not be written: {error}", hint
            ) from None
