"""SHA-256, and memory to read into. Used by the runner and, in the worker, by the stores.

Small data is hashed without OpenSSL: loading OpenSSL takes longer than a large share of a small step.
"""

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

# above this size, OpenSSL's faster code outweighs the time to load it
SMALL_BYTES = 1 << 20
# above this size, a thread is worth its cost: hashing takes as long as reading or writing, and runs beside it
LARGE_BYTES = 32 << 20


def sha256(size: int, data: bytes = b"") -> _Hash:
    """Return a SHA-256 object that was updated with ``data``.

    :param size: bytes that the object will hash in all; chooses the implementation
    """
    if size <= SMALL_BYTES and "_hashlib" not in sys.modules:
        for name in ("_sha2", "_sha256"):  # since Python 3.12, and before
            try:
                return __import__(name).sha256(data)  # type: ignore[no-any-return]
            except ImportError:
                continue
    import hashlib

    return hashlib.sha256(data)


class ReadBuffer:
    """A buffer of ``size`` bytes; the caller reads into ``view``.

    A large buffer is not filled with zeros first: the kernel maps its pages during the read.

    :param codec: codec of the value; for a codec of plain bytes, the buffer becomes the value without a copy
    :raises MemoryError: there is not enough memory
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
        """Return the bytes after the caller has written them. While a part of the view is in use, ``bytes``
        are copied.
        """
        self.view.release()
        return self._whole()


class BackgroundSha256:
    """A SHA-256 of ``size`` bytes. A thread hashes large data while the caller reads or writes it.

    The caller must not change the data before :meth:`hexdigest` has returned. The caller must leave the
    ``with`` block; otherwise the thread waits for more data.
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
            self._todo.put(memoryview(data))  # a second view, because the caller may release its own

    def update_all(self, parts: Iterable[Any]) -> None:
        """Hash the parts as the iterable yields them; keep none of them."""
        for data in parts:
            self.update(data)

    def hexdigest(self) -> str:
        """Return the digest of all data. Call it after the ``with`` block."""
        if self._thread is not None:
            self._thread.join()
        return self._found.hexdigest()

    def _work(self) -> None:
        for data in iter(self._todo.get, None):
            self._found.update(data)
