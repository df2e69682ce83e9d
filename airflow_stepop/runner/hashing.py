"""SHA-256 without the price of OpenSSL for small data: loading that costs more than much of a small step."""

from __future__ import annotations

import io
import sys

from .protocol import BYTES_CODECS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from hashlib import _Hash
    from typing import Any, Union

    Buffer = Union[bytes, bytearray, memoryview]

# above this, the faster code of OpenSSL pays for its loading
SMALL_BYTES = 1 << 20
# above this, a thread pays: hashing takes as long as reading or writing, and can go on beside it
LARGE_BYTES = 32 << 20


def sha256(size: int, data: bytes = b"") -> _Hash:
    """Return a SHA-256 object that has seen ``data``; ``size`` is how much it will see in all."""
    if size <= SMALL_BYTES and "_hashlib" not in sys.modules:
        for name in ("_sha2", "_sha256"):  # since Python 3.12, and before
            try:
                return __import__(name).sha256(data)  # type: ignore[no-any-return]
            except ImportError:
                continue
    import hashlib

    return hashlib.sha256(data)


class ReadBuffer:
    """``size`` bytes to read into: ``view``.

    Large ones are not filled with zeros before: their pages come while they are read, beside the hashing.

    :param codec: of the value; where that is the bytes themselves, they are read into what they become
    :raises MemoryError: there is not so much
    """

    def __init__(self, size: int, codec: str = "") -> None:
        self._whole: Callable[[], Buffer]
        try:
            if codec in BYTES_CODECS:
                held = io.BytesIO(bytes(size))
                self.view, self._whole = held.getbuffer(), held.getvalue
                return
            if size < LARGE_BYTES or codec == "bytearray":
                data: Buffer = bytearray(size)
            else:
                import mmap

                data = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANON))
        except (OSError, OverflowError, ValueError):
            raise MemoryError from None
        self.view, self._whole = memoryview(data), lambda: data

    def whole(self) -> Buffer:
        """Return them once they are written; ``bytes`` are copied if somebody keeps a part of the view."""
        self.view.release()
        return self._whole()


class BackgroundSha256:
    """A SHA-256 of ``size`` bytes; a large one is worked out while its caller reads or writes them.

    What it was given must not change before :meth:`hexdigest` has returned. Its block must be left, or its
    thread waits for more.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._found = sha256(size)
        self._todo: Any = None
        self._thread: Any = None
        if size >= LARGE_BYTES:
            import queue
            import threading

            self._todo = queue.SimpleQueue()
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def __enter__(self) -> BackgroundSha256:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._todo.put(None)

    def update(self, data: Any) -> None:
        if self._thread is None:
            self._found.update(data)
        else:
            self._todo.put(memoryview(data))  # a view of our own: the caller may release its

    def update_all(self, parts: Iterable[Any]) -> None:
        """Take parts as they come, and keep none of them."""
        for data in parts:
            self.update(data)

    def hexdigest(self) -> str:
        """Return the digest of everything that was given before its block was left."""
        if self._thread is not None:
            self._thread.join()
        return self._found.hexdigest()

    def _work(self) -> None:
        for data in iter(self._todo.get, None):
            self._found.update(data)
